// Apart from the SDK's types: users without the SDK check their programs against these.

/** Keys to an account, in place of those that the SDK finds. */
export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** Where a client connects to; undefined for settings of the environment and the SDK's files. */
export interface S3Target {
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  readonly pathStyle?: boolean | undefined;
  readonly credentials?: S3Credentials | undefined;
}
