//! Where configuration is looked up, weakest first, as JS's `rc` does: system files, the user's files, the nearest
//! `.ssbrc` from the working directory upwards, the file that `ssb_config` or `--config` names, the environment, flags.
//! Objects are merged key by key; anything else replaces what was there. A file is JSON with comments, or else INI.
//!
//! With an explicit data folder its own `config` is read instead of the user's, so that two nodes on one
//! machine do not share settings by accident; called as `sbot`, the user's is read as ssb-server does.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Fault, Faults, ini};

/// What was typed on the command line.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    /// `--path`.
    pub path: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
    /// Options in the manner of ssb-server, `--friends.hops 3`, as an object; stronger than all others.
    pub options: Map<String, Value>,
    /// Whether the same files are read as by ssb-server, whatever the data folder.
    pub as_js: bool,
}

impl Typed {
    /// Adds options; `path` and `config` among them are what `--path` and `--config` are.
    pub fn add_options(&mut self, mut options: Map<String, Value>) {
        let mut take = |key: &str| options.remove(key).and_then(|value| Some(PathBuf::from(value.as_str()?)));
        self.path = take("path").or(self.path.take());
        self.config = take("config").or(self.config.take());
        self.options.extend(options);
    }
}

/// The environment, as a value so that tests need none.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables, in the order the system gives them.
    pub vars: Vec<(OsString, OsString)>,
    /// The working directory, if it is known.
    pub cwd: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Self { vars: std::env::vars_os().collect(), cwd: std::env::current_dir().ok() }
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

    /// The data folder: `--path`, `$HAWSEPIPE_PATH`, what the environment or the user's files say, `~/.ssb` or
    /// `~/.$ssb_appname`.
    pub fn data_dir(&self, typed: &Typed) -> PathBuf {
        self.chosen(typed).or_else(|| self.configured()).unwrap_or_else(|| self.standard_dir())
    }

    /// The folder that was asked for at the start.
    fn chosen(&self, typed: &Typed) -> Option<PathBuf> {
        typed.path.clone().or_else(|| self.var("HAWSEPIPE_PATH").map(PathBuf::from))
    }

    fn standard_dir(&self) -> PathBuf {
        self.home().join(format!(".{}", self.app_name()))
    }

    /// `path` in the environment or in a file of [`Environment::files`]. A fault in a file is reported when all are read.
    fn configured(&self) -> Option<PathBuf> {
        let in_file =
            |file: &PathBuf| Some(PathBuf::from(read_file(file, false).ok()??.get("path")?.as_str()?));
        let variable = self.var(&format!("{}_path", self.app_name())).map(PathBuf::from);
        variable.or_else(|| self.files().iter().rev().find_map(in_file))
    }

    /// The files of JS's `rc` that need not be there, weakest first, each once.
    fn files(&self) -> Vec<PathBuf> {
        let (name, home) = (self.app_name(), self.home());
        let rc = format!(".{name}rc");
        let nearest = self.cwd.iter().flat_map(|cwd| cwd.ancestors()).map(|folder| folder.join(&rc));
        let mut files = vec![
            PathBuf::from(format!("/etc/{name}/config")),
            PathBuf::from(format!("/etc/{name}rc")),
            home.join(".config").join(name).join("config"),
            home.join(".config").join(name),
            self.standard_dir().join("config"),
            home.join(&rc),
        ];
        files.extend(nearest.filter(|file| file.exists()).take(1).filter(|file| *file != home.join(&rc)));
        files
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
    merge(&mut merged, Value::Object(typed.options.clone()));
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
    let own = env.chosen(typed).filter(|dir| *dir != env.standard_dir() && !typed.as_js);
    let files = match own {
        Some(dir) => {
            let system = env.files().into_iter().filter(|file| file.starts_with("/etc"));
            system.chain([dir.join("config")]).collect()
        }
        None => env.files(),
    };
    let mut files: Vec<_> = files.into_iter().map(|path| (path, false)).collect();
    files.extend(env.var(&format!("{name}_config")).map(|path| (PathBuf::from(path), true)));
    files.extend(typed.config.clone().map(|path| (path, true)));
    files
}

fn read_file(path: &Path, required: bool) -> Result<Option<Value>, String> {
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        // rc also looks for files under what may be a file itself.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) && !required => {
            return Ok(None);
        }
        Err(e) => return Err(format!("cannot be read: {e}")),
    };
    if text.starts_with('\u{feff}') {
        // Editors on Windows begin files with a byte order mark.
        text.drain(..'\u{feff}'.len_utf8());
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let mut stripped = text.clone();
    let closed = json_strip_comments::strip(&mut stripped);
    if !stripped.trim_start().starts_with('{') {
        return ini::parse(&text).map(|read| Some(Value::Object(read)));
    }
    closed.map_err(|e| format!("comments are not closed: {e}"))?;
    serde_json::from_str(&stripped).map(Some).map_err(|e| format!("not JSON: {e}"))
}

/// `ssb_a__b=v` sets `a.b`, as JS's `rc` reads it.
fn from_environment(env: &Environment) -> Value {
    let prefix = format!("{}_", env.app_name());
    let mut layer = Value::Object(Map::new());
    for (key, value) in &env.vars {
        let (Some(key), Some(value)) = (key.to_str(), value.to_str()) else { continue };
        let Some((start, key)) = key.split_at_checked(prefix.len()) else { continue };
        if start.eq_ignore_ascii_case(&prefix) && !matches!(key, "" | "appname" | "config" | "path") {
            merge(&mut layer, nested(key, "__", typed_value(value)));
        }
    }
    layer
}

/// A value as typed: JSON where it is JSON, text otherwise.
pub(crate) fn typed_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// `value` in objects that are named by the parts of `path`.
pub(crate) fn nested(path: &str, separator: &str, value: Value) -> Value {
    let keys: Vec<_> = path.split(separator).filter(|key| !key.is_empty()).collect();
    keys.into_iter().rev().fold(value, |inner, key| Value::Object(Map::from_iter([(key.to_owned(), inner)])))
}

/// Merges `layer` into what is there: objects key by key; anything else replaces it.
pub(crate) fn merge(into: &mut Value, layer: Value) {
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
        Environment { vars: vars.iter().map(|(k, v)| (k.into(), v.into())).collect(), cwd: None }
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
        let typed = Typed {
            path: Some(dir.path().to_owned()),
            set: vec!["friends.hops=3".into()],
            ..Typed::default()
        };
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
    fn files_of_js_are_read_weakest_first_and_may_name_the_data_folder() {
        let home = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = home.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write(".config/test", r#"{"a": 1, "b": 1, "c": 1, "d": 1}"#);
        write(".test/config", r#"{"b": 2, "c": 2, "d": 2, "path": "/weaker"}"#);
        write(".testrc", r#"{"c": 3, "d": 3, "path": "/data"}"#);
        write("work/.testrc", r#"{"d": 4}"#);
        write("elsewhere/config", r#"{"a": 9}"#);
        let mut env =
            env(&[("HOME", home.path().to_str().unwrap()), ("ssb_appname", "test"), ("TEST_e__f", "5")]);
        env.cwd = Some(home.path().join("work/deeper"));
        let plain = Typed::default();
        let expected = json!({"a": 1, "b": 2, "c": 3, "d": 4, "path": "/data", "e": {"f": 5}});
        assert_eq!(merged(&plain, &env).unwrap(), expected);
        assert_eq!(env.data_dir(&plain), PathBuf::from("/data"));
        // A folder of its own has settings of its own, unless we stand in for ssb-server.
        let mut moved = Typed { path: Some(home.path().join("elsewhere")), ..Typed::default() };
        assert_eq!(merged(&moved, &env).unwrap(), json!({"a": 9, "e": {"f": 5}}));
        moved.as_js = true;
        moved.options.insert("a".to_owned(), json!(7));
        assert_eq!(merged(&moved, &env).unwrap()["a"], 7);
        assert_eq!(merged(&moved, &env).unwrap()["d"], 4);
        env.vars.push(("test_path".into(), "/of-environment".into()));
        assert_eq!(env.data_dir(&plain), PathBuf::from("/of-environment"));
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
    fn a_file_that_begins_with_no_brace_is_ini() {
        let dir = tempfile::tempdir().unwrap();
        let typed = Typed { path: Some(dir.path().to_owned()), ..Typed::default() };
        for (text, read) in [
            ("; mine\nport = 8009\n[friends]\nhops = 1\n", json!({"port": 8009, "friends": {"hops": 1}})),
            ("host = a//b\n", json!({"host": "a//b"})),
            ("// mine\n{\"port\": 8009}", json!({"port": 8009})),
            ("/* mine */ {\"port\": 8009}", json!({"port": 8009})),
        ] {
            fs::write(dir.path().join("config"), text).unwrap();
            assert_eq!(merged(&typed, &env(&[])).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn unreadable_files_and_settings_are_all_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config"), "\"port\": 8008\n").unwrap();
        let typed = Typed {
            path: Some(dir.path().to_owned()),
            config: Some(dir.path().join("missing")),
            set: vec!["nonsense".into()],
            ..Typed::default()
        };
        let faults = merged(&typed, &env(&[])).unwrap_err();
        assert_eq!(faults.0.len(), 3, "{faults}");
        assert!(faults.to_string().contains("INI"), "{faults}");
    }
}
