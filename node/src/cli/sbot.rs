//! The command line of JS's ssb-server, for scripts that were written for it: `ns.method word --option value`, of any
//! method of the node. It is all there is when the program is called `sbot` or `ssb-server`, and what `hawsepipe` does
//! with a command that is none of its own.
//!
//! - Words are arguments; options together are the last argument. A lone `.` is JSON from standard input.
//! - A sink takes what comes from standard input: JSON objects, one after another, and `blobs.add` bytes. (JS sends bytes
//!   to all, which `createWriteStream` does not take.)
//! - What follows `--`, and the options as well, is configuration. (There, what follows `--` is weaker than any file,
//!   which helps nobody: here whatever was typed wins.)
//! - Results are printed as `JSON.stringify(_, null, 2)` has them, the items of a stream with an empty line after each.
//! - Exit code 1 for whatever goes wrong, as there; called `hawsepipe`, the codes of our other commands.

mod minimist;
mod remote;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use hawsepipe_overlay::muxrpc::{Body, BodyKind, CallKind};
use hawsepipe_replication::message::json;
use serde_json::{Map, Value};

use super::client::{Client, Failure};
use super::page::Facts;
use super::{Cli, output};
use crate::api;
use crate::blobs::blocking;
use crate::config::layers::{self, Environment, Typed, typed_value};
use crate::datadir::DataDir;

/// Names of ssb-server's program.
const NAMES: [&str; 2] = ["sbot", "ssb-server"];
/// ssb-server's short names of methods.
const ALIASES: [(&str, &str); 6] = [
    ("conf", "config"),
    ("feed", "createFeedStream"),
    ("hist", "createHistoryStream"),
    ("history", "createHistoryStream"),
    ("log", "createLogStream"),
    ("logt", "messagesByType"),
];

/// What was typed, if the program was called by a name of ssb-server's.
pub fn called(mut args: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let program = PathBuf::from(args.next()?);
    let name = program.file_name()?.to_str()?;
    NAMES.contains(&name).then(|| args.collect())
}

/// As whom we stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guise {
    Sbot,
    Hawsepipe,
}

/// What is to be done, and with which configuration.
#[derive(Debug)]
struct Job {
    guise: Guise,
    words: Vec<Value>,
    options: Map<String, Value>,
    typed: Typed,
}

/// Runs as `sbot`.
pub async fn run(args: Vec<OsString>, env: &Environment) -> ExitCode {
    let mut job = Job::read(Guise::Sbot, &args, Typed { as_js: true, ..Typed::default() });
    if job.words.first() == Some(&Value::from("server")) {
        output::line("WARNING-DEPRECATION: `sbot server` has been renamed to `ssb-server start`");
        job.words[0] = "start".into();
    }
    if job.words.first() == Some(&Value::from("start")) {
        return start(&job.typed, env).await;
    }
    job.run(env).await
}

/// Runs a command that is none of `hawsepipe`'s own.
pub async fn run_external(args: Vec<OsString>, typed: Typed, env: &Environment) -> ExitCode {
    let job = Job::read(Guise::Hawsepipe, &args, typed);
    let name = job.name();
    if name == "config" || api::find(&split(&name)).is_some() {
        return job.run(env).await;
    }
    let words = format!(
        "'{name}' is neither a command nor a method of the node (see `hawsepipe --help` and `hawsepipe call manifest`)"
    );
    let error = Cli::command().error(ErrorKind::InvalidSubcommand, words);
    // As with any other usage that clap finds wrong.
    let _ = error.print();
    ExitCode::from(output::USAGE)
}

/// The options that were typed behind `--`, as configuration.
pub fn configuration(words: &[String]) -> Map<String, Value> {
    retyped(minimist::parse(words).options)
}

/// A command line knows text and numbers only: `--local false` is meant as JSON.
fn retyped(options: Map<String, Value>) -> Map<String, Value> {
    let value = |value| match value {
        Value::String(text) => typed_value(&text),
        Value::Object(inner) => Value::Object(retyped(inner)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => value,
    };
    options.into_iter().map(|(key, found)| (key, value(found))).collect()
}

async fn start(typed: &Typed, env: &Environment) -> ExitCode {
    let level = layers::merged(typed, env)
        .ok()
        .and_then(|raw| Some(raw.get("logging")?.get("level")?.as_str()?.to_owned()));
    let level = level.as_deref().unwrap_or("notice");
    output::line(&format!(
        "hawsepipe {} {} logging.level:{level}",
        env!("CARGO_PKG_VERSION"),
        env.data_dir(typed).display()
    ));
    super::start(typed, env).await
}

fn split(name: &str) -> Vec<String> {
    name.split('.').map(str::to_owned).collect()
}

impl Job {
    fn read(guise: Guise, args: &[OsString], typed: Typed) -> Self {
        let words: Vec<_> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let (command, behind) = match words.iter().position(|word| word == "--") {
            Some(at) => (&words[..at], &words[at + 1..]),
            None => (&words[..], &[][..]),
        };
        let minimist::Line { positional, options } = minimist::parse(command);
        let mut typed = typed;
        // An option of a method is none of `hawsepipe`, whose own stand before the command.
        if guise == Guise::Sbot {
            typed.add_options(retyped(options.clone()));
        }
        typed.add_options(configuration(behind));
        Self { guise, words: positional, options, typed }
    }

    /// The method.
    fn name(&self) -> String {
        let typed = match self.words.first() {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let alias = ALIASES.iter().find(|(short, _)| *short == typed);
        alias.map_or(typed, |(_, name)| (*name).to_owned())
    }

    async fn run(mut self, env: &Environment) -> ExitCode {
        let name = self.name();
        if self.options.remove("help").is_some() {
            return usage(&name, true);
        }
        if name == "config" {
            return self.print_config(env);
        }
        let Some(method) = api::find(&split(&name)) else { return usage(&name, false) };
        let path = env.data_dir(&self.typed);
        let done = match self.connect(&path, env).await {
            Ok(client) => {
                let done = self.call(&client, method).await;
                client.close().await;
                done
            }
            Err(failure) => Err(failure),
        };
        done.map_or_else(|failure| self.report(failure), |()| ExitCode::SUCCESS)
    }

    /// To the node on this folder's socket; without one, or where `key` names another, to `host` and `port`.
    async fn connect(&self, path: &Path, env: &Environment) -> Result<Client, Failure> {
        let raw = layers::merged(&self.typed, env).map_err(|faults| Failure::Usage(faults.to_string()))?;
        let has_socket = DataDir::at(path).socket().exists();
        if raw.get("key").is_none() && (has_socket || self.guise == Guise::Hawsepipe) {
            return Client::connect(path).await;
        }
        remote::dial(path, &raw).await.map(Client::over)
    }

    async fn call(&self, client: &Client, method: &api::Method) -> Result<(), Failure> {
        let args = self.arguments().await?;
        match method.kind {
            CallKind::Sync | CallKind::Async => {
                let result = client.call(method.name, args).await?;
                output::line(&printed(&result));
                Ok(())
            }
            CallKind::Source => {
                client
                    .each(method.name, args, |item| {
                        print_item(item);
                        Ok(())
                    })
                    .await
            }
            CallKind::Sink => {
                super::sink::run(&client.api, method.name, args, &Facts::of_process(true, false)).await
            }
            CallKind::Duplex => {
                Err(Failure::Usage(format!("{} is a duplex: it needs a program", method.name)))
            }
        }
    }

    async fn arguments(&self) -> Result<Vec<Value>, Failure> {
        let mut args: Vec<_> = self.words.iter().skip(1).cloned().collect();
        if args.first() == Some(&Value::from(".")) && !io::stdin().is_terminal() {
            let read = blocking(|| {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map(|_| text)
            });
            let text = read.await.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
            let content = serde_json::from_str(&text);
            return Ok(vec![
                content.map_err(|error| Failure::Usage(format!("standard input is not JSON: {error}")))?,
            ]);
        }
        if !self.options.is_empty() {
            args.push(Value::Object(self.options.clone()));
        }
        Ok(args)
    }

    fn print_config(&self, env: &Environment) -> ExitCode {
        match layers::merged(&self.typed, env) {
            Ok(mut raw) => {
                raw["path"] = env.data_dir(&self.typed).display().to_string().into();
                output::line(&printed(&Body::json(&raw)));
                ExitCode::SUCCESS
            }
            Err(faults) => self.report(Failure::Usage(faults.to_string())),
        }
    }

    fn report(&self, failure: Failure) -> ExitCode {
        if self.guise == Guise::Hawsepipe {
            return failure.report();
        }
        output::note(&match failure {
            Failure::NotRunning(why) => {
                format!(
                    "Error: Could not connect to ssb-server {why}\nUse the \"start\" command to start it."
                )
            }
            Failure::Refused(why) | Failure::Usage(why) => format!("Error: {why}"),
            Failure::Attention => String::new(),
        });
        ExitCode::from(output::REFUSED)
    }
}

/// What there is of that name or below it. Having asked for it is success.
fn usage(name: &str, asked: bool) -> ExitCode {
    let group = format!("{name}.");
    let meant =
        |method: &&api::Method| name.is_empty() || method.name == name || method.name.starts_with(&group);
    let found: Vec<_> = api::METHODS.iter().filter(meant).collect();
    if found.is_empty() {
        output::note(&format!("missing command: {name}\nsbot --help lists all there are"));
    }
    for method in found {
        let head = format!("{} {}", method.name, method.usage);
        output::line(&format!("{} # {}", head.trim_end(), method.summary));
    }
    ExitCode::from(if asked { 0 } else { output::REFUSED })
}

/// As JS prints it.
fn printed(body: &Body) -> String {
    match body.kind {
        BodyKind::Text => Value::from(body.lossy_text()).to_string(),
        BodyKind::Json | BodyKind::Binary => match json::parse(&body.bytes) {
            Ok(value) => String::from_utf8_lossy(&value.to_pretty()).into_owned(),
            Err(_) => body.lossy_text().into_owned(),
        },
    }
}

fn print_item(item: &Body) {
    let mut out = io::stdout().lock();
    let written = match item.kind {
        BodyKind::Binary => out.write_all(&item.bytes),
        BodyKind::Text | BodyKind::Json => write!(out, "{}\n\n", printed(item)),
    };
    if written.and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_name_of_the_program_decides() {
        let args = |program: &str| called(os(&[program, "whoami"]).into_iter());
        assert_eq!(args("/usr/local/bin/sbot"), Some(os(&["whoami"])));
        assert_eq!(args("ssb-server"), Some(os(&["whoami"])));
        assert_eq!(args("hawsepipe"), None);
        assert_eq!(called(std::iter::empty()), None);
    }

    #[test]
    fn options_are_arguments_and_configuration_and_what_follows_is_configuration_only() {
        let words = [
            "createUserStream",
            "--id",
            "@x",
            "--path",
            "/data",
            "--",
            "--port",
            "9",
            "--local",
            "false",
            "--friends.hops=1",
        ];
        let job = Job::read(Guise::Sbot, &os(&words), Typed::default());
        assert_eq!(Value::Object(job.options), json!({"id": "@x", "path": "/data"}));
        assert_eq!(
            Value::Object(job.typed.options),
            json!({"id": "@x", "port": 9, "local": false, "friends": {"hops": 1}})
        );
        assert_eq!(job.typed.path, Some(PathBuf::from("/data")));
        let ours =
            Job::read(Guise::Hawsepipe, &os(&["get", "--path", "x", "--", "--port", "9"]), Typed::default());
        assert_eq!((Value::Object(ours.typed.options), ours.typed.path), (json!({"port": 9}), None));
    }

    #[test]
    fn short_names_are_those_of_ssb_server() {
        let name = |words: &[&str]| Job::read(Guise::Sbot, &os(words), Typed::default()).name();
        assert_eq!(name(&["feed", "--limit", "1"]), "createFeedStream");
        assert_eq!(
            (name(&["whoami"]), name(&[]), name(&["7"])),
            ("whoami".to_owned(), String::new(), "7".to_owned())
        );
        for (_, method) in ALIASES.iter().filter(|(_, method)| *method != "config") {
            assert!(api::find(&split(method)).is_some(), "{method}");
        }
    }

    #[test]
    fn results_are_printed_as_js_prints_them() {
        assert_eq!(printed(&Body::text("net:x")), "\"net:x\"");
        assert_eq!(
            printed(&Body::json_raw(r#"{"a":[1e21,{}],"b":"x"}"#)),
            "{\n  \"a\": [\n    1e+21,\n    {}\n  ],\n  \"b\": \"x\"\n}"
        );
        assert_eq!(printed(&Body::void()), "false");
    }
}
