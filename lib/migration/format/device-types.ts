/** One state in a VM description: a device, a structure in it, or a subsection. */
export interface StateDescription {
  /** Name of the state's vmsd. A subsection's is its parent's name, a slash, and its own. */
  vmsd_name?: string;
  /** Version of the layout in which the state was sent. */
  version?: number;
  fields?: FieldDescription[];
  subsections?: StateDescription[];
}

/** One field of a state. */
export interface FieldDescription extends StateDescription {
  name: string;
  /** QEMU's name of the type, such as `uint32`, `buffer` or `struct`. */
  type: string;
  /** Bytes of one element. */
  size: number;
  /** Number of elements, all of the same type and size, that follow each other. */
  array_len?: number;
  /** Index in its array. The elements of one array stand next to each other. */
  index?: number;
  /** The contents of a field of type `struct`. */
  struct?: StateDescription;
}

/** One device section. */
export interface DeviceDescription extends StateDescription {
  name: string;
  instance_id: number;
  /** Bytes of the body, where the state is not described any further. */
  size?: number;
  /** Why the entry cannot be used; set by the parser, never by the stream. The size of the body is unknown then. */
  unusable?: string;
}

/** The VM description: the JSON after the end mark, which describes the device sections. */
export interface VmDescription {
  /** Bytes of a target page. */
  page_size: number;
  /** The device sections, in the order of the stream. */
  devices: DeviceDescription[];
  /** The configuration section; written by QEMU 10 and later. */
  configuration?: StateDescription;
}

/**
 * A decoded value. Integers beyond 2^53-1 are bigints and bytes are a `Uint8Array`. Arrays and structures
 * are nested as in the description, and subsections stand among the fields under their full names.
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
