/** Size of the staging area of copied bytes and of the look-ahead, in bytes. @see QEMU `IO_BUF_SIZE` */
export const IO_BUF_SIZE = 32768;

/** Greatest number of entries in one gather list. @see QEMU `MAX_IOV_SIZE` */
export const MAX_IOV_SIZE = 64;

/** Length of one rate-limit window in milliseconds: QEMU's migration core resets its budget this often. */
export const RATE_LIMIT_WINDOW_MS = 100;

/** Flags given to RAM hooks: around the block list. @see QEMU `RAM_CONTROL_SETUP` */
export const RAM_CONTROL_SETUP = 0;
/** Flags given to RAM hooks: around one iteration over dirty pages. @see QEMU `RAM_CONTROL_ROUND` */
export const RAM_CONTROL_ROUND = 1;
/** Flags given to the load hook when `RAM_SAVE_FLAG_HOOK` is met in a stream. @see QEMU `RAM_CONTROL_HOOK` */
export const RAM_CONTROL_HOOK = 2;
/** Flags given to RAM hooks: around the last round. @see QEMU `RAM_CONTROL_FINISH` */
export const RAM_CONTROL_FINISH = 3;
/** Flags given to the load hook for each RAM block that the stream lists. @see QEMU `RAM_CONTROL_BLOCK_REG` */
export const RAM_CONTROL_BLOCK_REG = 4;

/** Flag of a RAM word whose content a hook transports. @see QEMU `RAM_SAVE_FLAG_HOOK` */
export const RAM_SAVE_FLAG_HOOK = 0x80;

/** The answer of a save-page hook that cannot send the page: send it inline. @see QEMU `RAM_SAVE_CONTROL_NOT_SUPP` */
export const RAM_SAVE_CONTROL_NOT_SUPP = -1000;
/** The answer of a save-page hook that sends the page by its own means. @see QEMU `RAM_SAVE_CONTROL_DELAYED` */
export const RAM_SAVE_CONTROL_DELAYED = -2000;
