//! Orders that a stop of the node left open, and ends that Payment may not know of.

use super::Inference;
use crate::machine::Outbox;
use crate::message::inference::{Effect, OrderAccount};
use crate::message::sibling::Message;
use crate::money::Msat;
use crate::order::record::{Closing, Unfinished};
use crate::refusal::Code;
use crate::time::Now;
use crate::wire::order::Status;

impl Inference {
    /// Ends what a crash left open. The first turn after a start.
    pub(super) fn close_unfinished(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let unfinished = std::mem::take(&mut self.unfinished);
        if unfinished.is_empty() {
            return;
        }
        self.with(now, out, |_, ctx| {
            for order in unfinished {
                match order {
                    Unfinished::Closing(closing) => ctx.tell(Message::CloseOrder {
                        account: Box::new(closing.account),
                        unpaid: closing.unpaid,
                    }),
                    Unfinished::Running {
                        mut record,
                        mut journal,
                    } => {
                        record.status = Some(Status::Failed(Code::Interrupted));
                        let account = OrderAccount {
                            unsure: record.unsure(),
                            ..record.account()
                        };
                        // What was paid is known to Payment alone; a crash of ours is no debt
                        // of the buyer's.
                        let closing = Closing {
                            account,
                            unpaid: Msat::ZERO,
                        };
                        ctx.close_order(&mut journal, &record, closing);
                    }
                }
            }
        });
    }
}
