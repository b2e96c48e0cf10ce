//! Proving our key to a relay that asks for it (NIP-42).
//!
//! Only then: AUTH tells the relay who we are. It happens when the relay's document
//! demands it, or when an event or a subscription was refused for want of it; both wait
//! in their tables meanwhile.

use super::{Session, Step};
use crate::ports::relay::reason::Reason;
use crate::ports::relay::signer::{public_key, sign_event};
use crate::ports::relay::{EventId, RelayEvent, RelayOffence};
use nostr::event::{FinalizeUnsignedEvent, IntoEventBuilder};
use nostr::message::ClientMessage;
use nostr::nips::nip42::ClientAuthentication;
use std::borrow::Cow;
use tokio::time::Instant;

/// Longest AUTH challenge answered, in bytes; real ones are under 100.
const MAX_CHALLENGE_BYTES: usize = 512;

/// AUTH events signed on one connection: a relay must not make us sign for ever.
const MAX_AUTHS: u32 = 4;

/// Where AUTH stands on this connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// Nobody asked.
    Idle,
    /// Wanted, but the relay's challenge has not come yet.
    Wanted,
    /// Sent; its OK is awaited.
    Sent(EventId),
    /// The relay took it.
    Done,
    /// The relay refused it, or there is no key.
    Failed,
}

impl Session<'_> {
    /// Keeps the relay's challenge, and answers it if AUTH is wanted.
    pub(super) async fn challenge(&mut self, challenge: String) -> Step {
        if challenge.is_empty() || challenge.len() > MAX_CHALLENGE_BYTES {
            return self.offence(RelayOffence::Malformed);
        }
        self.challenge = Some(challenge);
        match self.auth {
            Auth::Wanted => self.authenticate().await,
            _ => Ok(()),
        }
    }

    /// Signs the relay's challenge, if there is one, and a key, and it was not refused yet.
    pub(super) async fn authenticate(&mut self) -> Step {
        if matches!(self.auth, Auth::Sent(_)) {
            return Ok(());
        }
        let Some(signer) = self.shared.config.auth.clone() else {
            let text = "auth-required: the relay wants a key; configure one or use another relay";
            return self.auth_answered(false, Reason::parse(text));
        };
        if self.auth == Auth::Failed || self.auths >= MAX_AUTHS {
            let text = "auth-required: the relay does not take this key's AUTH";
            return self.auth_answered(false, Reason::parse(text));
        }
        let Some(challenge) = self.challenge.take() else {
            self.auth = Auth::Wanted;
            return Ok(());
        };
        self.auths += 1;
        let signed = public_key(&*signer).and_then(|author| {
            let auth = ClientAuthentication::new(challenge, self.relay.relay_url.clone());
            sign_event(
                auth.into_event_builder().finalize_unsigned(author),
                &*signer,
            )
        });
        match signed {
            Ok(event) => {
                self.auth = Auth::Sent(event.id);
                self.send(ClientMessage::Auth(Cow::Owned(event))).await
            }
            Err(error) => self.auth_answered(false, Reason::local(error.to_string())),
        }
    }

    pub(super) fn auth_answered(&mut self, accepted: bool, reason: Reason) -> Step {
        let relay = &mut *self.relay;
        if accepted {
            self.auth = Auth::Done;
            relay.subscriptions.auth_succeeded(Instant::now());
            relay.outbox.auth_succeeded();
            return Ok(());
        }
        self.auth = Auth::Failed;
        relay.outbox.auth_failed(&reason);
        for subscription in relay.subscriptions.auth_failed() {
            let (url, reason) = (relay.url.clone(), reason.clone());
            self.ready.push_back(RelayEvent::Closed {
                url,
                subscription,
                reason,
            });
        }
        Ok(())
    }
}
