//! `hawsepipe blob`: files by their hash.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hawsepipe_replication::refs::BlobId;

use super::client::Failure;
use super::page::{Facts, Page};
use super::text;
use crate::client::{AddBlobError, Client};

/// What to do with blobs.
#[derive(Debug, Subcommand)]
pub enum Blob {
    /// Store a file and print its id
    Add {
        /// The file; standard input if none is given
        file: Option<PathBuf>,
    },
    /// Write a blob to standard output
    Get {
        /// The blob, &….sha256
        id: BlobId,
        /// Search for it if it is not here, and wait
        #[arg(long)]
        want: bool,
    },
    /// Say whether a blob is here: exit code 1 if not
    Has {
        /// The blob, &….sha256
        id: BlobId,
    },
    /// Print the ids of all blobs that are here
    List,
    /// Have peers take a blob until enough have it
    Push {
        /// The blob, &….sha256
        id: BlobId,
    },
    /// Delete a blob
    Remove {
        /// The blob, &….sha256
        id: BlobId,
    },
}

/// `hawsepipe blob`.
pub(super) async fn run(client: &Client, what: Blob, facts: &Facts) -> Result<(), Failure> {
    match what {
        Blob::Add { file } => add(client, file.as_deref(), facts).await,
        Blob::Get { id, want } => get(client, &id, want, facts).await,
        Blob::Has { id } => {
            let has = client.has_blob(&id).await?;
            let mut page = Page::short(facts);
            page.line(if has { "true" } else { "false" });
            page.finish();
            if has { Ok(()) } else { Err(Failure::Attention) }
        }
        Blob::List => {
            let mut ids = client.source_raw("blobs.ls", Vec::new()).await?;
            let mut page = Page::long(facts);
            while let Some(id) = ids.next().await {
                let id = id?;
                match id.decode::<String>() {
                    Ok(id) => page.line(&text::one_line(&id)),
                    Err(_) => page.json(&id.bytes),
                }
            }
            page.finish();
            Ok(())
        }
        Blob::Push { id } => {
            client.call_raw("blobs.push", vec![id.to_string().into()]).await.map(drop).map_err(Failure::from)
        }
        Blob::Remove { id } => {
            client.call_raw("blobs.rm", vec![id.to_string().into()]).await.map(drop).map_err(Failure::from)
        }
    }
}

/// `hawsepipe blob add`.
pub(super) async fn add(client: &Client, file: Option<&Path>, facts: &Facts) -> Result<(), Failure> {
    let added = match file {
        Some(path) => {
            let open = tokio::fs::File::open(path).await;
            client
                .add_blob(open.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?)
                .await
        }
        None => client.add_blob(standard_input().map_err(|error| Failure::Usage(error.to_string()))?).await,
    };
    let id = added.map_err(|error| match error {
        AddBlobError::Client(error) => error.into(),
        AddBlobError::Read(error) => Failure::Refused(error.to_string()),
    })?;
    let mut page = Page::short(facts);
    page.line(&id.to_string());
    page.finish();
    Ok(())
}

/// Standard input without the standard library's buffer, whose lock would hold up the exit.
pub(super) fn standard_input() -> std::io::Result<tokio::fs::File> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(input.into()))
}

/// `hawsepipe blob get`.
pub(super) async fn get(client: &Client, id: &BlobId, want: bool, facts: &Facts) -> Result<(), Failure> {
    if want {
        client.want_blob(id).await?;
    }
    let mut pieces = client.blob(id).await?;
    let mut page = Page::short(facts);
    while let Some(piece) = pieces.next().await {
        page.bytes(&piece?);
    }
    page.finish();
    Ok(())
}
