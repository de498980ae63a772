//! Known peers: `conn.json` of ssb-conn, or `gossip.json` of ssb-gossip (an array of `{address, key, host, port, source}`),
//! added to our `conn.json`. What we know already stays as it is.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};

use super::ImportError;
use crate::datadir::{self, DataDir};
use crate::peer_book::{MAX_PEERS, of_gossip};

/// Adds the peers of the folder `from`; says how many addresses were new.
pub(super) fn import(from: &Path, to: &DataDir) -> Result<usize, ImportError> {
    let file = to.conn();
    let mut ours = read(&file)?.and_then(|text| entries(&text)).unwrap_or_default();
    let theirs = match read(&from.join("conn.json"))? {
        Some(text) => entries(&text),
        None => read(&from.join("gossip.json"))?.and_then(|text| of_gossip(&text)),
    };
    let before = ours.len();
    for (address, entry) in theirs.unwrap_or_default() {
        if ours.len() < MAX_PEERS {
            ours.entry(address).or_insert(entry);
        }
    }
    let new = ours.len() - before;
    if new > 0 {
        let text = serde_json::to_string_pretty(&ours).unwrap_or_default();
        datadir::write_atomic(&file, text.as_bytes()).map_err(ImportError::io("write", &file))?;
    }
    Ok(new)
}

fn read(path: &Path) -> Result<Option<String>, ImportError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImportError::io("read", path)(error)),
    }
}

/// The entries of a `conn.json`. One that is damaged is worth no failure: peers are found again.
fn entries(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::peer_book::decode;

    const KEY: &str = "@iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=.ed25519";

    #[test]
    fn a_gossip_table_becomes_an_address_book() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let to = DataDir::at(ours.path());
        let table = json!([
            {"host": "192.0.2.1", "port": 8008, "key": KEY, "source": "manual", "failure": 3},
            {"address": format!("net:192.0.2.2:8008~shs:{}", &KEY[1..45]), "key": KEY, "source": "pub"},
            {"host": "192.0.2.3", "port": 8008, "key": KEY, "source": "local"},
            {"host": "192.0.2.4", "port": "none", "key": KEY, "source": "pub"},
            7
        ]);
        fs::write(theirs.path().join("gossip.json"), table.to_string()).unwrap();
        assert_eq!(import(theirs.path(), &to).unwrap(), 2);
        let known = decode(&fs::read_to_string(to.conn()).unwrap()).unwrap().known;
        let dialled: Vec<bool> = known.iter().map(|known| known.autoconnect).collect();
        assert_eq!(dialled, [true, false]);
        assert_eq!(import(theirs.path(), &to).unwrap(), 0, "they are known now");
    }

    #[test]
    fn an_address_book_is_added_to_ours_which_stays() {
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let to = DataDir::at(ours.path());
        let at = |host: &str| format!("net:{host}:8008~shs:{}", &KEY[1..45]);
        let book = json!({at("192.0.2.1"): {"key": KEY, "autoconnect": true}, at("192.0.2.2"): {"key": KEY}});
        fs::write(theirs.path().join("conn.json"), book.to_string()).unwrap();
        fs::write(to.conn(), json!({at("192.0.2.1"): {"key": KEY, "autoconnect": false}}).to_string())
            .unwrap();
        assert_eq!(import(theirs.path(), &to).unwrap(), 1);
        let merged = entries(&fs::read_to_string(to.conn()).unwrap()).unwrap();
        assert_eq!(merged[&at("192.0.2.1")]["autoconnect"], false);
        fs::write(theirs.path().join("conn.json"), "{").unwrap();
        assert_eq!(import(theirs.path(), &to).unwrap(), 0, "a damaged one is passed over");
    }
}
