//! Bugs in what a host puts on the wire, and in what a user is shown of it.

use super::{Memory, Plant};
use crate::crypto::SimCrypto;
use crate::world::resign;
use protocol::ids::Digest;
use protocol::message::inference::BuyerEvent;
use protocol::wire::order::{Frame, Invoice, Receipt};

/// One chunk in so many is lost.
const LOST: u64 = 7;
/// A head of no chain.
const NO_HEAD: Digest = Digest([7; 32]);

/// A frame as it leaves; `None`: it does not.
pub(super) fn altered(
    plant: Plant,
    memory: &mut Memory,
    crypto: &SimCrypto,
    frame: Frame,
) -> Option<Frame> {
    memory.count += 1;
    match frame {
        Frame::Receipt(mut signed) => {
            let wrong = |receipt: &mut Receipt| match plant {
                Plant::ReceiptCost => receipt.cost.0 += 1,
                Plant::ReceiptHead => receipt.head = NO_HEAD,
                Plant::ReceiptPayments => {
                    receipt.payments.pop();
                }
                _ => {}
            };
            resign(crypto, &mut signed, wrong);
            Some(Frame::Receipt(signed))
        }
        Frame::Invoice(mut signed) if plant == Plant::InvoiceHead => {
            let wrong = |invoice: &mut Invoice| invoice.head = NO_HEAD;
            resign(crypto, &mut signed, wrong);
            Some(Frame::Invoice(signed))
        }
        Frame::Chunk(_) if plant == Plant::ChunkLost && memory.count.is_multiple_of(LOST) => None,
        Frame::Chunk(mut chunk) if plant == Plant::TokenAltered => {
            if let Some(token) = chunk.tokens.last_mut() {
                token.id ^= 1;
            }
            Some(Frame::Chunk(chunk))
        }
        frame => Some(frame),
    }
}

/// An event as the user sees it; `None`: not at all.
pub(super) fn shown(plant: Plant, memory: &mut Memory, event: BuyerEvent) -> Option<BuyerEvent> {
    memory.count += 1;
    match event {
        BuyerEvent::Output { .. }
            if plant == Plant::OutputLost && memory.count.is_multiple_of(LOST) =>
        {
            None
        }
        BuyerEvent::Output {
            text,
            tokens,
            totals,
            cost,
            attached,
        } if plant == Plant::WordsAltered => Some(BuyerEvent::Output {
            text: text.to_uppercase(),
            tokens,
            totals,
            cost,
            attached,
        }),
        event => Some(event),
    }
}
