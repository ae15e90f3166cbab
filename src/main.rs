//! The btcr2-agent binary: parse, dispatch, exit code.

use std::process::ExitCode;

use btcr2_agent::cli;

fn main() -> ExitCode {
    // Before a passphrase can be typed or a key be read.
    cli::dumps::forbid();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(code) => return code,
    };
    cli::log_to_stderr(command.global.verbose);
    cli::dispatch(command)
}
