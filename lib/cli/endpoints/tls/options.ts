import type { Command } from 'commander';

/** An endpoint of a command that can speak TLS. */
export type TlsSide = 'from' | 'to';

/** Help text about all TLS options, printed after the list of options. */
export const TLS_NOTES = `
TLS, for tcp: and unix: (version 1.2 or newer; the listening end is always verified):
  --from-tls, --to-tls   take a directory in the layout of QEMU's tls-creds-x509 and
                         tls-creds-psk: for <from> server-cert.pem and server-key.pem, for
                         <to> client-cert.pem and client-key.pem (optional); for both
                         ca-cert.pem and, optionally, ca-crl.pem; or keys.psk. An option
                         that names a file replaces the one in the directory, and works
                         without a directory.
  <from> requires a certificate from its clients, unless --from-tls-anonymous is given.
  <to> checks that the certificate is for its host, or for --to-tls-hostname; for a unix
  socket that is localhost. A shared key proves both ends, so no name is checked.`;

/**
 * Add the TLS options of a command; `readTls` reads the files that they name.
 *
 * @param command - The command that receives the options.
 * @param sides - The endpoints that can speak TLS.
 * @returns The command.
 */
export function addTlsOptions(command: Command, sides: readonly TlsSide[]): Command {
  command.optionsGroup('TLS options:');
  for (const side of sides) {
    command
      .option(`--${side}-tls <dir>`, `<${side}>: speak TLS with the credentials in a directory`)
      .option(`--${side}-tls-ca <file>`, `<${side}>: the trusted authorities (PEM)`)
      .option(`--${side}-tls-cert <file>`, `<${side}>: the certificate of this end (PEM)`)
      .option(`--${side}-tls-key <file>`, `<${side}>: the private key of that certificate (PEM)`)
      .option(`--${side}-tls-psk <file>`, `<${side}>: shared keys, in lines of USER:HEXKEY`);
    if (side === 'from') {
      command.option('--from-tls-anonymous', '<from>: accept clients without a certificate');
    } else {
      command
        .option('--to-tls-hostname <name>', "<to>: the name that the peer's certificate must have")
        .option('--to-tls-user <name>', '<to>: the user of the shared key; default qemu');
    }
  }
  return command.optionsGroup('Options:').addHelpText('after', TLS_NOTES);
}
