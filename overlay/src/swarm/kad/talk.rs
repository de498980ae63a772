//! The conversations, each on its stream, with a deadline.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::{AskId, Asker, Request, Response, SwarmStream, wire};

/// For a question and its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Until the next question on a stream comes.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of a conversation.
pub(crate) enum Talked {
    /// A question of the machine's.
    Answered { id: AskId, ip: Option<IpAddr>, response: io::Result<Response> },
    /// A question to a neighbour.
    Neighbour(io::Result<Response>),
    /// Somebody's question, to be answered on its stream; an error ends it.
    Heard { question: io::Result<Request>, stream: SwarmStream, from: Asker, sampled: bool },
}

/// Asks one question.
pub(super) async fn ask(mut stream: SwarmStream, request: &Request) -> io::Result<Response> {
    let talk = async {
        wire::write(&mut stream, &wire::encode_request(request)).await?;
        wire::decode_response(request, wire::read(&mut stream).await?)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, talk).await?
}

/// Waits for a question.
pub(super) async fn hear(mut stream: SwarmStream, from: Asker, sampled: bool) -> Talked {
    let read = async { wire::decode_request(wire::read(&mut stream).await?) };
    let question = tokio::time::timeout(QUESTION_TIMEOUT, read).await;
    let question = question.map_err(io::Error::from).flatten();
    Talked::Heard { question, stream, from, sampled }
}

/// Answers a question and waits for the next: some peers use a stream for many.
pub(super) async fn answer(
    mut stream: SwarmStream,
    request: Request,
    response: Response,
    from: Asker,
    sampled: bool,
) -> Talked {
    let message = wire::encode_response(&request, &response);
    let written = tokio::time::timeout(ANSWER_TIMEOUT, wire::write(&mut stream, &message)).await;
    match written.map_err(io::Error::from).flatten() {
        Ok(()) => hear(stream, from, sampled).await,
        Err(error) => Talked::Heard { question: Err(error), stream, from, sampled },
    }
}

/// A label for metrics.
pub(super) const fn label(request: &Request) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::FindNode(_) => "find_node",
        Request::GetValue(_) => "get_value",
        Request::PutValue(_) => "put_value",
        Request::GetProviders(_) => "get_providers",
    }
}
