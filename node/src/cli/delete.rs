//! `hawsepipe delete`: takes feeds out of the store of a node that is not running.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use hawsepipe_replication::refs::FeedId;
use hawsepipe_replication::store::{Options, Rewritten, Store};

use super::output;
use super::progress::Bar;
use crate::datadir::DataDir;
use crate::identity;

/// Deletes `feeds` from the store under `path`.
pub(super) fn run(path: &Path, feeds: &[String]) -> ExitCode {
    crate::init_crypto();
    let mut without = BTreeSet::new();
    for feed in feeds {
        let Ok(id) = feed.parse::<FeedId>() else { return output::usage(&format!("not a feed: {feed}")) };
        without.insert(id);
    }
    let store = DataDir::at(path).store();
    if !store.is_dir() {
        return output::failed(&format!("{} holds no store of Hawsepipe", path.display()));
    }
    if !path.join("secret").is_file() {
        return output::failed(&format!("{} holds no secret, so its own feed is not known", path.display()));
    }
    let own = identity::load_or_create_secret(path);
    let own = own.map(|keypair| FeedId::from_bytes(identity::public_key(&keypair).to_bytes()));
    match own {
        Ok(own) if without.contains(&own) => {
            return output::failed(
                "this node's own feed is not deleted: whatever it published then would fork the feed",
            );
        }
        Ok(_) => {}
        Err(error) => return output::failed(&error.to_string()),
    }
    let mut bar = Bar::new("writing the log anew");
    let done =
        Store::rewrite(&store, &without, &Options::default(), &mut |done, total| bar.bytes(done, total));
    drop(bar);
    match done {
        Ok(done) => {
            print(&done);
            match DataDir::at(path).forget_graph() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    output::failed(&format!("remove hawsepipe/graph yourself, it knows of them: {error}"))
                }
            }
        }
        Err(error) => output::failed(&error.to_string()),
    }
}

fn print(done: &Rewritten) {
    let Rewritten { kept, deleted, bytes_before, bytes_after, beside } = done;
    output::line(&format!(
        "deleted {deleted} messages, kept {kept}; the log had {bytes_before} bytes and has {bytes_after}"
    ));
    for file in beside {
        output::line(&format!("may hold some of them still: {}", file.display()));
    }
}
