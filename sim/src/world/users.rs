//! Users and operators: purchases, second thoughts, what a node serves and lists.

use super::{HEALED_MS, LATER_TRIES, STORM, TRY_MS, Via, World};
use crate::check::Seen;
use crate::dice::MS;
use crate::event::{Event, NodeIx, UserAction};
use crate::node::RICH;
use crate::users::{self, End, Purchase};
use protocol::ids::RequestId;
use protocol::message;
use protocol::message::inference::Input as OrderInput;
use protocol::refusal::Code;
use protocol::route::Delivery;

impl World {
    /// Mean pause between two purchases of a node. Milliseconds.
    pub(super) fn purchase_ms(&self) -> u64 {
        let times = if self.profile.storm { STORM } else { 1 };
        3_600_000 / (self.options.purchases_per_hour * times).max(1)
    }

    /// A node's operator says what it serves.
    pub(crate) fn serve(&mut self, node: NodeIx) {
        let served = self.nodes[node].participant.served.clone();
        let serve = Delivery::Inference(OrderInput::Serve(served));
        self.post(node, Via::User, serve, 0);
    }

    pub(crate) fn announce(&mut self, node: NodeIx) {
        if self.nodes[node].withdrawn {
            return;
        }
        if let Some(manifest) = self.nodes[node].manifest(node) {
            let input = message::discovery::Input::Announce(Box::new(manifest));
            self.post(node, Via::User, Delivery::Discovery(input), 0);
        }
    }

    pub(super) fn want(&mut self, node: NodeIx, tries: u32) {
        let healed = tries > 0 || self.healed;
        if !self.healed {
            let mean = self.purchase_ms();
            let at = self.now + self.dice.pause(mean);
            self.queue.push(at, Event::Want { node, tries: 0 });
        } else if tries == 0 {
            return;
        }
        if !self.up(node) {
            return;
        }
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let served = self.served_by.get(&node).copied();
        let order = users::draw(&mut self.dice, request, healed, served);
        let purchase = Purchase {
            epoch: self.nodes[node].epoch,
            mode: order.mode,
            order: None,
            host: None,
            end: None,
            tries,
            since: self.now,
            healed,
        };
        self.purchases.insert((node, request), purchase);
        self.tally.purchases += 1;
        self.see(Seen::Wished { node, wish: &order });
        self.post(
            node,
            Via::User,
            Delivery::Inference(OrderInput::Buy(Box::new(order))),
            0,
        );
        if !healed && self.dice.chance(150_000) {
            let action = if self.dice.chance(600_000) {
                UserAction::Stop
            } else {
                UserAction::Cancel
            };
            let at = self.now + self.dice.ms(200, 20_000);
            self.schedule_reaction(at, node, request, action);
        }
    }

    /// The user does something about a purchase then, unless its node was started anew.
    pub(super) fn schedule_reaction(
        &mut self,
        at: u64,
        node: NodeIx,
        request: RequestId,
        action: UserAction,
    ) {
        let epoch = self.nodes[node].epoch;
        let event = Event::React {
            node,
            epoch,
            request,
            action,
        };
        self.queue.push(at, event);
    }

    pub(super) fn react(
        &mut self,
        node: NodeIx,
        epoch: u32,
        request: RequestId,
        action: UserAction,
    ) {
        if !self.is_run(node, epoch) {
            return;
        }
        let input = match action {
            UserAction::Confirm => OrderInput::Confirm(request),
            UserAction::Stop => OrderInput::Stop(request),
            UserAction::Cancel => OrderInput::Cancel(request),
        };
        self.post(node, Via::User, Delivery::Inference(input), 0);
    }

    /// A purchase ended.
    pub(crate) fn ended(&mut self, node: NodeIx, request: RequestId, end: End, why: &str) {
        let Some(purchase) = self.purchases.get_mut(&(node, request)) else {
            return;
        };
        if purchase.end.is_some() {
            return;
        }
        purchase.end = Some(end);
        let (tries, healed) = (purchase.tries, purchase.healed);
        match end {
            End::Finished => {
                self.tally.finished += 1;
                *self.tally.modes.entry(purchase.mode).or_default() += 1;
                self.served_by
                    .extend(purchase.host.map(|host| (node, host)));
            }
            End::Failed(code) => {
                self.tally.failed += 1;
                *self.tally.refusals.entry(format!("{code:?}")).or_default() += 1;
            }
            End::Crashed => {}
        }
        if !healed || !self.healed {
            return;
        }
        // Only its own limits and its own wallet excuse: a host may say the same.
        let poor = match end {
            End::Failed(Code::BudgetExhausted) => {
                self.nodes[node].participant.limits.per_day < RICH
            }
            End::Failed(Code::WalletCannotPay) => self.wallets.of[node].local < 2 * RICH.0 / 100,
            _ => false,
        };
        if end == End::Finished || poor {
            self.answered.insert(node, Ok(()));
        } else if !matches!(self.answered.get(&node), Some(Ok(()))) {
            self.answered.insert(node, Err(why.to_owned()));
            let end = (self.options.safety_ms + HEALED_MS) * MS;
            let most = self.healed_tries.saturating_add(LATER_TRIES);
            if tries < most && self.now + TRY_MS * MS < end {
                let at = match tries < self.healed_tries {
                    true => self.now + self.dice.ms(5_000, 40_000),
                    false => self.now + self.dice.ms(60_000, 120_000),
                };
                self.queue.push(
                    at,
                    Event::Want {
                        node,
                        tries: tries + 1,
                    },
                );
            }
        }
    }
}
