/** What a VM description says of one state: of a device, a structure in it, or a subsection. */
export interface StateDescription {
  /** Name of the state's layout in QEMU; a subsection's is that of its parent, a slash, and its own. */
  vmsd_name?: string;
  /** Version of the layout that the bytes have. */
  version?: number;
  fields?: FieldDescription[];
  subsections?: StateDescription[];
}

/** What it says of one field. */
export interface FieldDescription extends StateDescription {
  name: string;
  /** Such as `uint32`, `buffer` or `struct`. */
  type: string;
  /** Bytes of one element. */
  size: number;
  /** Elements of the same type and size, one after the other. */
  array_len?: number;
  /** Which element of an array; those of one array follow each other. */
  index?: number;
  /** What is in a field of type `struct`. */
  struct?: StateDescription;
}

/** What it says of one device section. */
export interface DeviceDescription extends StateDescription {
  name: string;
  instance_id: number;
  /** Bytes, where the state is not described any further. */
  size?: number;
}

/** The JSON behind a stream's end mark: what the device sections consist of. */
export interface VmDescription {
  /** Of the target, in bytes. */
  page_size: number;
  /** In the order of the stream. */
  devices: DeviceDescription[];
  /** The configuration section, since QEMU 10. */
  configuration?: StateDescription;
}
