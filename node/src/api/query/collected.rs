//! What methods ask that make something of all messages that name a thing: as one list, and what comes after it.

use std::ops::Range;
use std::sync::Arc;

use hawsepipe_overlay::muxrpc::RemoteError;
use hawsepipe_replication::store::Order;
use serde_json::{Value, json};

use super::{BACKLINKS, Found, Plan, Shape, choose, failed, unclear};
use crate::context::{Caller, Context};
use crate::query::Query;

/// Messages of one list at most.
const MAX_COLLECTED: usize = 100_000;

/// Messages that name something, private ones that we can read among them, without those of feeds that we block.
#[derive(Clone, Debug)]
pub(in crate::api) struct Backlinks {
    query: Query,
    plan: Plan,
    shape: Shape,
}

impl Backlinks {
    /// What `backlinks.read` would find with this filter, in its order; or by claimed time.
    pub(in crate::api) fn of(filter: &Value, by_claimed_time: bool) -> Result<Self, RemoteError> {
        let query = Query::parse(Some(&json!([{ "$filter": filter }]))).map_err(unclear)?;
        let index = choose(&BACKLINKS, &query, by_claimed_time.then_some("DTA"))?;
        let plan = Plan::new(index.as_ref().map(|(index, _)| *index), query.filter());
        Ok(Self { query, plan, shape: Shape::Link { rts: true } })
    }

    /// All that are stored before `end`.
    pub(in crate::api) async fn before(
        &self,
        ctx: &Arc<Context>,
        end: u64,
        order: Order,
    ) -> Result<Vec<Value>, RemoteError> {
        ctx.private.caught_up_if_near(&ctx.reader).await;
        let caller = Caller::default();
        let (asked, known, waits) = (self.clone(), Arc::clone(ctx), caller.waits());
        let collected = ctx.read(move || {
            let messages = asked.plan.messages(&known, end, order).map_err(failed)?;
            asked.take(&known, messages, end, &waits)
        });
        collected.await
    }

    /// Those in a part of the log, in its order.
    pub(in crate::api) async fn among(
        &self,
        ctx: &Arc<Context>,
        offsets: Range<u64>,
    ) -> Result<Vec<Value>, RemoteError> {
        let caller = Caller::default();
        let (asked, known, waits) = (self.clone(), Arc::clone(ctx), caller.waits());
        let collected = ctx.read(move || {
            let messages = known.reader.log(offsets.clone(), Order::Ascending).map_err(failed)?;
            asked.take(&known, messages, offsets.end, &waits)
        });
        collected.await
    }

    fn take(
        &self,
        ctx: &Context,
        messages: impl Found,
        end: u64,
        caller_waits: &dyn Fn() -> bool,
    ) -> Result<Vec<Value>, RemoteError> {
        let (mut run, mut found, blocked) = (self.query.run(), Vec::new(), ctx.blocked());
        for stored in messages.take_while(|_| caller_waits()) {
            let stored = stored.map_err(failed)?;
            if stored.offset >= end || blocked.contains(&stored.message.author()) {
                continue;
            }
            let opened = ctx.private.open_stored(&stored);
            for value in self.shape.values(&stored, opened.as_ref()) {
                run.push(value, &mut found).map_err(unclear)?;
            }
            if found.len() > MAX_COLLECTED {
                return Err(RemoteError::new(format!("more than {MAX_COLLECTED} messages name this")));
            }
        }
        Ok(found)
    }
}
