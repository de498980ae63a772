//! `hawsepipe`: reads what was typed, and either starts a node or talks to the running one.

use std::process::ExitCode;

use hawsepipe::cli;

fn main() -> ExitCode {
    hawsepipe::init_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::output::failed(&format!("cannot start: {error}")),
    };
    let code = runtime.block_on(cli::run_process());
    // A task that still reads standard input or the disk must not hold up the exit.
    runtime.shutdown_background();
    code
}
