//! Where configuration is looked up, weakest first, as JS's `rc` does: system files, the user's file,
//! the environment, flags. Objects are merged key by key; anything else replaces what was there.
//!
//! With an explicit data folder its own `config` is read instead of the user's, so that two nodes on one
//! machine do not share settings by accident.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Fault, Faults};

/// What was typed on the command line.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    /// `--path`.
    pub path: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
}

/// The environment, as a value so that tests need none.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables, in the order the system gives them.
    pub vars: Vec<(OsString, OsString)>,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Self { vars: std::env::vars_os().collect() }
    }

    fn var(&self, name: &str) -> Option<&str> {
        let (_, value) = self.vars.iter().find(|(key, _)| key == name)?;
        value.to_str().filter(|text| !text.is_empty())
    }

    /// `$ssb_appname`, or `ssb`: names the data folder and the environment's prefix.
    fn app_name(&self) -> &str {
        self.var("ssb_appname").unwrap_or("ssb")
    }

    fn home(&self) -> PathBuf {
        PathBuf::from(self.var("HOME").unwrap_or("."))
    }

    /// The data folder: `--path`, `$HAWSEPIPE_PATH`, `~/.ssb` or `~/.$ssb_appname`.
    pub fn data_dir(&self, typed: &Typed) -> PathBuf {
        let explicit = typed.path.clone().or_else(|| self.var("HAWSEPIPE_PATH").map(PathBuf::from));
        explicit.unwrap_or_else(|| self.home().join(format!(".{}", self.app_name())))
    }
}

/// Reads and merges all layers.
pub fn merged(typed: &Typed, env: &Environment) -> Result<Value, Faults> {
    let mut faults = Vec::new();
    let mut merged = Value::Object(Map::new());
    let either = env.home().join(".config").join(env.app_name());
    for (path, required) in files(typed, env) {
        if path == either && path.is_dir() {
            // `~/.config/ssb` is the file or the folder that holds it.
            continue;
        }
        match read_file(&path, required) {
            Ok(Some(layer)) => merge(&mut merged, layer),
            Ok(None) => {}
            Err(what) => faults.push(Fault { key: path.display().to_string(), what }),
        }
    }
    merge(&mut merged, from_environment(env));
    for text in &typed.set {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => merge(&mut merged, nested(key, ".", typed_value(value))),
            _ => faults.push(Fault { key: format!("--set {text}"), what: "expected KEY=VALUE".to_owned() }),
        }
    }
    if faults.is_empty() { Ok(merged) } else { Err(Faults(faults)) }
}

/// The files to read, weakest first; `true` where a missing file is a fault.
fn files(typed: &Typed, env: &Environment) -> Vec<(PathBuf, bool)> {
    let name = env.app_name();
    let home = env.home();
    let mut files =
        vec![PathBuf::from(format!("/etc/{name}/config")), PathBuf::from(format!("/etc/{name}rc"))];
    let data_dir = env.data_dir(typed);
    let standard = home.join(format!(".{name}"));
    if data_dir == standard {
        files.push(home.join(".config").join(name).join("config"));
        files.push(home.join(".config").join(name));
        files.push(standard.join("config"));
        files.push(home.join(format!(".{name}rc")));
    } else {
        files.push(data_dir.join("config"));
    }
    let mut files: Vec<_> = files.into_iter().map(|path| (path, false)).collect();
    files.extend(env.var(&format!("{name}_config")).map(|path| (PathBuf::from(path), true)));
    files.extend(typed.config.clone().map(|path| (path, true)));
    files
}

fn read_file(path: &Path, required: bool) -> Result<Option<Value>, String> {
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    if text.starts_with('\u{feff}') {
        // Editors on Windows begin files with a byte order mark.
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    json_strip_comments::strip(&mut text).map_err(|e| format!("comments are not closed: {e}"))?;
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        Ok(_) => Err("expected a JSON object".to_owned()),
        Err(_) if !text.trim_start().starts_with('{') => {
            Err("expected a JSON object with comments (INI files are not read: rewrite it as JSON)"
                .to_owned())
        }
        Err(e) => Err(format!("not JSON: {e}")),
    }
}

/// `ssb_a__b=v` sets `a.b`, as JS's `rc` reads it.
fn from_environment(env: &Environment) -> Value {
    let prefix = format!("{}_", env.app_name());
    let mut layer = Value::Object(Map::new());
    for (key, value) in &env.vars {
        let (Some(key), Some(value)) = (key.to_str(), value.to_str()) else { continue };
        let Some(key) = key.strip_prefix(&prefix) else { continue };
        if !matches!(key, "" | "appname" | "config") {
            merge(&mut layer, nested(key, "__", typed_value(value)));
        }
    }
    layer
}

/// A value as typed: JSON where it is JSON, text otherwise.
fn typed_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn nested(path: &str, separator: &str, value: Value) -> Value {
    let keys: Vec<_> = path.split(separator).collect();
    keys.into_iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_owned(), inner)])))
}

fn merge(into: &mut Value, layer: Value) {
    match (into, layer) {
        (Value::Object(into), Value::Object(layer)) => {
            for (key, value) in layer {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, layer) => *into = layer,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn env(vars: &[(&str, &str)]) -> Environment {
        Environment { vars: vars.iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        fs::write(
            &file,
            "{ // ours\n \"port\": 1, \"friends\": {\"hops\": 1, \"dunbar\": 9}, \"host\": \"::1\" }",
        )
        .unwrap();
        let typed =
            Typed { path: Some(dir.path().to_owned()), config: None, set: vec!["friends.hops=3".into()] };
        let env = env(&[("HOME", "/nowhere"), ("ssb_friends__hops", "2"), ("ssb_port", "2")]);
        let merged = merged(&typed, &env).unwrap();
        assert_eq!(merged, json!({"port": 2, "host": "::1", "friends": {"hops": 3, "dunbar": 9}}));
    }

    #[test]
    fn the_data_folder_follows_the_app_name() {
        let typed = Typed::default();
        assert_eq!(env(&[("HOME", "/h")]).data_dir(&typed), PathBuf::from("/h/.ssb"));
        assert_eq!(
            env(&[("HOME", "/h"), ("ssb_appname", "test")]).data_dir(&typed),
            PathBuf::from("/h/.test")
        );
        assert_eq!(env(&[("HAWSEPIPE_PATH", "/d")]).data_dir(&typed), PathBuf::from("/d"));
    }

    #[test]
    fn a_folder_in_place_of_a_file_is_a_fault_unless_it_may_be_either() {
        let home = tempfile::tempdir().unwrap();
        let env = env(&[("HOME", home.path().to_str().unwrap())]);
        fs::create_dir_all(home.path().join(".config/ssb")).unwrap();
        fs::create_dir_all(home.path().join(".ssb")).unwrap();
        fs::write(home.path().join(".config/ssb/config"), "\u{feff}{\"port\": 7}").unwrap();
        assert_eq!(merged(&Typed::default(), &env).unwrap(), json!({"port": 7}));
        fs::create_dir(home.path().join(".ssb/config")).unwrap();
        let faults = merged(&Typed::default(), &env).unwrap_err();
        assert_eq!(faults.0.len(), 1, "{faults}");
        assert!(faults.0[0].key.ends_with(".ssb/config"), "{faults}");
    }

    #[test]
    fn unreadable_files_and_settings_are_all_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config"), "port = 8008\n").unwrap();
        let typed = Typed {
            path: Some(dir.path().to_owned()),
            config: Some(dir.path().join("missing")),
            set: vec!["nonsense".into()],
        };
        let faults = merged(&typed, &env(&[])).unwrap_err();
        assert_eq!(faults.0.len(), 3, "{faults}");
        assert!(faults.to_string().contains("INI"), "{faults}");
    }
}
