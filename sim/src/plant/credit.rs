//! Bugs in the arithmetic of credit, debt and fees.

use super::Plant;
use crate::node::AnyEffect;
use protocol::ids::{OrderId, PaymentHash};
use protocol::message::inference::Input as OrderInput;
use protocol::message::payment::{Effect as PayEffect, Input as PayInput, PayOutcome, Side};
use protocol::message::sibling::Message;
use protocol::money::Msat;
use protocol::refusal::Refusal;

/// How many times too wide a window is.
const TIMES: u64 = 8;
/// A window for nothing. Msat.
const WINDOW: Msat = Msat(50_000);
/// A debt that there is not. Msat.
const INVENTED: u64 = 700;

/// A window that is too wide.
pub(super) fn widened(mut input: OrderInput) -> OrderInput {
    match &mut input {
        OrderInput::CreditOpened {
            result: Ok(credit), ..
        } => credit.window.0 *= TIMES,
        OrderInput::CreditGranted { window, .. } => window.0 *= TIMES,
        _ => {}
    }
    input
}

/// A window for everybody.
pub(super) fn trusted(mut input: OrderInput) -> OrderInput {
    if let OrderInput::CreditOpened {
        result: Ok(credit), ..
    } = &mut input
    {
        credit.window = credit.window.max(WINDOW);
        credit.prepay = false;
    }
    input
}

/// The end of an order on the host's side, with another debt.
pub(super) fn closed(plant: Plant, mut input: PayInput) -> PayInput {
    if let PayInput::CloseOrder { account, unpaid } = &mut input
        && account.side == Side::Host
    {
        match plant {
            Plant::ForgiveDebt => *unpaid = Msat::ZERO,
            _ => {
                unpaid.0 += INVENTED;
                account.cost.0 += INVENTED;
            }
        }
    }
    input
}

/// A payment that cost nothing.
pub(super) fn without_fee(mut input: PayInput) -> PayInput {
    if let PayInput::PayDone { outcome, .. } | PayInput::Sent { outcome, .. } = &mut input
        && let PayOutcome::Settled { fee, .. } = outcome
    {
        *fee = Msat::ZERO;
    }
    input
}

/// An invoice that is paid before anybody saw it.
pub(super) fn early(
    order: OrderId,
    seq: u32,
    result: Result<(String, PaymentHash), Refusal>,
) -> Vec<AnyEffect> {
    let made = result.clone().ok();
    let tell = |message| AnyEffect::Payment(PayEffect::Tell(message));
    let mut effects = vec![tell(Message::InvoiceMade { order, seq, result })];
    if let Some((bolt11, hash)) = made
        && let Some(facts) = crate::crypto::read_invoice(&bolt11)
    {
        effects.push(tell(Message::CreditGranted {
            order,
            seq,
            hash,
            msat: facts.msat.unwrap_or_default(),
            window: WINDOW,
        }));
    }
    effects
}
