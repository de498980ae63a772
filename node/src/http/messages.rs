//! Messages by HTTP, as ssb-ws serves them: `GET /msg/%….sha256` is `{key, value}`, printed for people. Whoever has an
//! id may have the message (as by `ooo.stream`), and private ones stay sealed. Paths that are not ours go to the next.

use std::sync::Arc;

use hawsepipe_replication::message::json;
use hawsepipe_replication::refs::MessageId;
use hawsepipe_replication::store::Reader;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::blobs::decode;
use super::{Body, Handler, whole};
use crate::blobs::blocking;

const PREFIX: &str = "/msg/";

/// Answers for messages of `reader`, and has `next` answer what else is asked for.
pub fn handler(reader: Reader, next: Handler) -> Handler {
    Arc::new(move |from, request| {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match asked(request.uri().path()).filter(|_| is_read) {
            None => next(from, request),
            Some(id) => Box::pin(respond(reader.clone(), id)),
        }
    })
}

fn asked(path: &str) -> Option<MessageId> {
    let written = path.strip_prefix(PREFIX)?;
    let decoded = decode(written).and_then(|id| id.parse().ok());
    // A bare `%` is no percent encoding; ssb-ws takes it all the same.
    decoded.or_else(|| written.parse().ok())
}

async fn respond(reader: Reader, id: MessageId) -> Response<Body> {
    let (status, kind, text) = match blocking(move || reader.get(&id)).await {
        Ok(Some(stored)) => {
            let value = String::from_utf8_lossy(stored.message.value_bytes()).into_owned();
            (StatusCode::OK, "application/json", printed(&id, &value))
        }
        Ok(None) => (StatusCode::NOT_FOUND, "text/plain", format!("no message {id} is here\n")),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
    };
    let mut response = Response::new(whole(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// As `JSON.stringify(_, null, 2)` prints it.
fn printed(id: &MessageId, value: &str) -> String {
    let compact = format!("{{\"key\":\"{id}\",\"value\":{value}}}");
    match json::parse(compact.as_bytes()) {
        Ok(parsed) => String::from_utf8_lossy(&parsed.to_pretty()).into_owned(),
        // A little deeper than what is read otherwise: as it lies in the log.
        Err(_) => compact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_asked_for_with_or_without_percent_signs() {
        let id = MessageId::from_bytes([0xfb; 32]);
        for path in [format!("/msg/{id}"), format!("/msg/{id}").replace('%', "%25")] {
            assert_eq!(asked(&path), Some(id), "{path}");
        }
        for other in ["/msg/", "/msg/%25nonsense", "/blobs/get/x", "/"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn a_message_is_printed_as_js_prints_it() {
        let id = MessageId::from_bytes([1; 32]);
        let text = printed(&id, r#"{"content":{"n":1e21,"list":[]}}"#);
        assert_eq!(
            text,
            format!(
                "{{\n  \"key\": \"{id}\",\n  \"value\": {{\n    \"content\": {{\n      \"n\": 1e+21,\n      \"list\": []\n    }}\n  }}\n}}"
            )
        );
    }
}
