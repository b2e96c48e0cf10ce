//! What a relay says: each message understood, each event judged.
//!
//! Everything here comes from a stranger: nothing is taken that was not asked for, and
//! what does not fit is an offence, never a panic.

use super::auth::Auth;
use super::{Session, Step};
use crate::ports::relay::outbox::Outcome;
use crate::ports::relay::reason::{Reason, ReasonKind, clean};
use crate::ports::relay::status::Deed;
use crate::ports::relay::subscriptions::{AfterClose, Eose, Fit, is_pages};
use crate::ports::relay::{Event, EventId, RelayEvent, RelayOffence};
use nostr::message::{ClientMessage, RelayMessage, SubscriptionId};
use std::borrow::Cow;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

impl Session<'_> {
    /// Understands one message.
    pub(super) async fn text(&mut self, text: Utf8Bytes) -> Step {
        let Ok(message) = RelayMessage::from_json(text.as_bytes()) else {
            return match is_extension(&text) {
                true => Ok(()),
                false => self.offence(RelayOffence::Malformed),
            };
        };
        match message {
            RelayMessage::Event {
                subscription_id,
                event,
            } => self.event(subscription_id.as_str(), event.into_owned()),
            RelayMessage::EndOfStoredEvents(id) => {
                let limits = &self.shared.config.limits;
                let relay = &mut *self.relay;
                let ended = relay.subscriptions.eose(id.as_str(), limits, &relay.info);
                if let Eose::Done {
                    id: subscription,
                    close,
                } = ended
                {
                    self.complete(subscription);
                    if let Some(pages) = close {
                        let id = SubscriptionId::new(pages);
                        self.send(ClientMessage::Close(Cow::Owned(id))).await?;
                    }
                }
                Ok(())
            }
            RelayMessage::Ok {
                event_id,
                status,
                message,
            } => self.answer(event_id, status, &message).await,
            RelayMessage::Closed {
                subscription_id,
                message,
            } => self.closed(subscription_id.as_str(), &message).await,
            RelayMessage::Notice(text) => {
                let url = self.relay.url.clone();
                let text = clean(&text);
                self.ready.push_back(RelayEvent::Notice { url, text });
                Ok(())
            }
            RelayMessage::Auth { challenge } => self.challenge(challenge.into_owned()).await,
            // Not asked for: COUNT (NIP-45) and set reconciliation (NIP-77).
            _ => Ok(()),
        }
    }

    fn complete(&mut self, subscription: Arc<str>) {
        self.relay.status.lock().note(Deed::Served);
        let url = self.relay.url.clone();
        self.ready.push_back(RelayEvent::Eose { url, subscription });
    }

    /// Judges an event: cheap checks first, the signature last.
    fn event(&mut self, wire_id: &str, event: Event) -> Step {
        let limits = &self.shared.config.limits;
        let Some(subscription) = self.relay.subscriptions.by_wire_id(wire_id) else {
            // One that was just ended may still be answered.
            return match self.relay.subscriptions.was_ours(wire_id) {
                true => Ok(()),
                false => self.offence(RelayOffence::UnknownSubscription),
            };
        };
        match subscription.judge(wire_id, &event, limits) {
            Fit::Wanted => {}
            Fit::Beyond => return Ok(()),
            Fit::NotMatched => return self.offence(RelayOffence::NotMatched),
            Fit::Flood => return self.offence(RelayOffence::Flood),
        }
        let (id, generation) = (subscription.id.clone(), subscription.generation);
        let key = (generation, event.id.to_bytes());
        if self.shared.seen.lock().touch(&key) {
            return Ok(());
        }
        // Only verified ids enter the memory: a forgery must not hide the genuine event.
        if event.verify().is_err() {
            return self.offence(RelayOffence::Forged);
        }
        if self.shared.seen.lock().insert(key) {
            self.relay.status.lock().events += 1;
            self.ready.push_back(RelayEvent::Event {
                url: self.relay.url.clone(),
                subscription: id,
                event: Box::new(event),
            });
        }
        Ok(())
    }

    /// Understands OK.
    async fn answer(&mut self, id: EventId, accepted: bool, message: &str) -> Step {
        let reason = Reason::parse(message);
        if self.auth == Auth::Sent(id) {
            return self.auth_answered(accepted, reason);
        }
        if accepted || reason.kind == ReasonKind::Duplicate {
            if self.relay.outbox.finish(&id, Outcome::Accepted) {
                self.relay.status.lock().note(Deed::Served);
            }
            return Ok(());
        }
        if reason.kind == ReasonKind::AuthRequired && self.relay.outbox.needs_auth(&id) {
            return self.authenticate().await;
        }
        self.relay.outbox.finish(&id, Outcome::Refused(reason));
        Ok(())
    }

    /// Understands CLOSED.
    async fn closed(&mut self, wire_id: &str, message: &str) -> Step {
        if is_pages(wire_id) {
            // The newest are here, and the subscription itself is open.
            if let Some(subscription) = self.relay.subscriptions.page_closed(wire_id) {
                self.complete(subscription);
            }
            return Ok(());
        }
        let reason = Reason::parse(message);
        let wants_auth = reason.kind == ReasonKind::AuthRequired
            && !matches!(self.auth, Auth::Done | Auth::Failed);
        let next = match wants_auth {
            true => AfterClose::NeedsAuth,
            false if reason.is_retryable() => AfterClose::Retry,
            false => AfterClose::GiveUp,
        };
        if wants_auth {
            self.relay
                .subscriptions
                .closed(wire_id, next, Instant::now());
            return self.authenticate().await;
        }
        self.subscription_closed(wire_id, next, reason);
        Ok(())
    }

    /// Notes that a subscription ended and tells the caller.
    pub(super) fn subscription_closed(&mut self, wire_id: &str, next: AfterClose, reason: Reason) {
        let now = Instant::now();
        if let Some(subscription) = self.relay.subscriptions.closed(wire_id, next, now) {
            let url = self.relay.url.clone();
            self.ready.push_back(RelayEvent::Closed {
                url,
                subscription,
                reason,
            });
        }
    }
}

/// Tells a message of some extension, which is passed over, from garbage.
fn is_extension(text: &str) -> bool {
    const KNOWN: [&str; 6] = ["EVENT", "EOSE", "OK", "CLOSED", "NOTICE", "AUTH"];
    let parsed = serde_json::from_str::<Vec<serde_json::Value>>(text);
    let verb = parsed.ok().and_then(|parts| parts.into_iter().next());
    verb.is_some_and(|verb| verb.as_str().is_some_and(|verb| !KNOWN.contains(&verb)))
}
