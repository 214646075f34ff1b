/**
 * A decoded value: integers beyond 2^53-1 are bigints, bytes are a `Uint8Array`, arrays and structures as
 * in the description; subsections stand among the fields, under their full names.
 */
export type StateValue =
  | number
  | bigint
  | boolean
  | string
  | null
  | Uint8Array
  | StateValue[]
  | DeviceState;

/** The decoded state of a device, or of a structure in it. */
export interface DeviceState {
  [field: string]: StateValue;
}
