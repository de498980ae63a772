//! `createHistoryStream`: replication of one feed per call, which every peer speaks (protocol guide,
//! "createHistoryStream"), and the choice between it and EBT.
//!
//! * [`HistoryPlan`] is what a caller asks for, every quirk of its arguments resolved.
//! * [`HistoryServer`] answers calls, also those that stay open for what is yet to come.
//! * [`HistoryFetch`] asks one peer for many feeds over few streams.
//! * [`Negotiation`] decides, per session, whether EBT or history streams are used.
//!
//! All four are driven as [`crate::ebt::State`] is: inputs in, outputs out, the clock is an argument.

mod args;
mod fetch;
mod negotiation;
mod serve;

pub use args::{HistoryPlan, InvalidArgs, Shape, history_request};
pub use fetch::{
    FetchInput, FetchOutput, HistoryFetch, LIVE_STREAMS, POLL_INTERVAL, ROTATING_STREAMS, STREAM_STALL,
};
pub use negotiation::{
    EBT_ANSWER_TIMEOUT, EBT_CALL_TIMEOUT, Mode, Negotiation, NegotiationInput, NegotiationOutput,
};
pub use serve::{
    HistoryServer, MAX_STREAMS, MAX_STREAMS_PER_CALLER, ServeInput, ServeOutput, StreamId, TOO_MANY_STREAMS,
    blocks_caller,
};
