//! The manual page and completion scripts, made from the definition of the command line, so that they cannot disagree
//! with it.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, output};

/// `hawsepipe completions`.
pub(super) fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawsepipe", &mut script);
    print(&script)
}

/// `hawsepipe man`: the page of the program or of one command, or the files of all of them.
pub(super) fn man(command: Option<&str>, into: Option<&Path>) -> ExitCode {
    if let Some(folder) = into {
        let written = std::fs::create_dir_all(folder);
        let written = written.and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
        return match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => output::failed(&format!("cannot write the pages to {}: {error}", folder.display())),
        };
    }
    let program = program();
    let page = match command {
        None => page(program),
        Some(name) => match program.find_subcommand(name) {
            Some(found) => page(found.clone()),
            None => return output::usage(&format!("there is no command {name}; see hawsepipe --help")),
        },
    };
    match page {
        Ok(page) => print(&page),
        Err(error) => output::failed(&error.to_string()),
    }
}

/// The whole command line, with the options of all commands named in each.
fn program() -> Command {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    program
}

fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

fn print(text: &[u8]) -> ExitCode {
    output::bytes(text.strip_suffix(b"\n").unwrap_or(text));
    ExitCode::SUCCESS
}
