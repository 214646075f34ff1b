import type { Command } from 'commander';

/** An end of a relay that can speak TLS. */
export type TlsSide = 'from' | 'to';

/** What the TLS options explain together, after the list of them. */
export const TLS_NOTES = `
TLS, for tcp: and unix: (version 1.2 or newer; the listening end is always verified):
  --from-tls, --to-tls   take a directory as QEMU's tls-creds-x509 and tls-creds-psk do:
                         <from> server-cert.pem, server-key.pem; <to> client-cert.pem,
                         client-key.pem (which may be missing); both ca-cert.pem and, if
                         it is there, ca-crl.pem; or else keys.psk. An option that names
                         a file replaces that of the directory, or does without one.
  <from> demands a certificate of its clients, unless --from-tls-anonymous lets in anybody.
  <to> checks that the certificate is for its host, or that of --to-tls-hostname; for a
  unix socket that is localhost. A shared key proves both ends, so there is no name then.`;

/**
 * Adds the options with which the ends of a command speak TLS; `readTls` takes what comes of them.
 *
 * @param command - Gets them.
 * @param sides - Which of its ends can.
 * @returns The command.
 */
export function addTlsOptions(command: Command, sides: readonly TlsSide[]): Command {
  for (const side of sides) {
    command
      .option(`--${side}-tls <dir>`, `<${side}>: speak TLS, with what is in this directory`)
      .option(`--${side}-tls-ca <file>`, `<${side}>: the authorities that are trusted (PEM)`)
      .option(`--${side}-tls-cert <file>`, `<${side}>: the certificate of this side (PEM)`)
      .option(`--${side}-tls-key <file>`, `<${side}>: the private key of that certificate (PEM)`)
      .option(`--${side}-tls-psk <file>`, `<${side}>: shared keys, in lines of USER:HEXKEY`);
    if (side === 'from') {
      command.option('--from-tls-anonymous', '<from>: let in clients without a certificate');
    } else {
      command
        .option('--to-tls-hostname <name>', '<to>: whom its certificate must name')
        .option('--to-tls-user <name>', '<to>: which shared key to use; default qemu');
    }
  }
  return command.addHelpText('after', TLS_NOTES);
}
