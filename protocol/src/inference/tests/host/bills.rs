//! The order of a host's invoices, and how long it waits for payments and output.

use super::*;

#[test]
fn a_payment_is_countersigned_by_its_buyer_for_its_invoice_or_not_at_all() {
    type Lie = fn(&mut Paid);
    let lies: [(u8, Lie); 6] = [
        (2, |_| {}),
        (3, |_| {}),
        (2, |paid| paid.order = OrderId([9; 16])),
        (2, |paid| paid.seq = 2),
        (2, |paid| paid.hash = PaymentHash([9; 32])),
        (2, |paid| paid.head = Digest([9; 32])),
    ];
    for (number, (by, lie)) in lies.iter().enumerate() {
        let mut sale = Sale::running(4_000);
        sale.produces(5, None);
        let head = sale.sent.iter().find_map(|frame| match frame {
            Frame::Invoice(signed) => {
                let invoice = signed.open_public::<Invoice>(&keys(1), NETWORK);
                Some(invoice.unwrap().body.head)
            }
            _ => None,
        });
        let mut paid = Paid {
            order: sale.id,
            seq: 1,
            hash: PaymentHash([2; 32]),
            head: head.unwrap(),
            extensions: Vec::new(),
        };
        lie(&mut paid);
        sale.hears(Frame::Paid(seal(*by, 9, &paid)));
        let lied = number > 0;
        assert_eq!(sale.offences() > 0, lied, "lie {number}");
        assert_eq!(sale.refused().is_some(), lied, "lie {number}");
    }
}

#[test]
fn an_entry_can_be_paid_for_as_long_as_its_terms_stand_and_a_step_for_longer() {
    let lives = |sale: &Sale| {
        let lives = sale.told.iter().filter_map(|message| match message {
            Message::MakeInvoice { seq, expiry_s, .. } => Some((*seq, *expiry_s)),
            _ => None,
        });
        lives.collect::<Vec<_>>()
    };
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    sale.credits(0, 1_800, 1_800);
    sale.produces(11, None);
    assert_eq!(lives(&sale), [(0, 60), (1, 180)]);
}

#[test]
fn invoices_go_out_in_their_order_whichever_the_wallet_makes_first() {
    let mut sale = Sale::running(8_000);
    sale.slow = true;
    sale.produces(13, None);
    sale.produces(3, Some(Finish::Stop));
    assert_eq!(sale.invoices(), [4_050_u64, 750]);
    sale.feed(sale.made(2));
    assert!(sale.asked().is_empty());
    sale.feed(sale.made(1));
    assert_eq!(sale.asked(), [1, 2]);
    sale.credits(2, 750, 8_000);
    assert_eq!(sale.receipt(), None);
    sale.credits(1, 4_050, 8_000);
    assert!(sale.receipt().is_some());
}

#[test]
fn an_order_whose_invoice_cannot_be_made_ends() {
    for entry in [true, false] {
        let mut sale = Sale::new(if entry { 0 } else { 4_000 });
        sale.slow = true;
        let mut sale = sale.offered(offer(), &ordered());
        if !entry {
            sale.accepts();
            sale.produces(5, None);
        }
        let (order, seq) = (sale.id, u32::from(!entry));
        let result = Err(Refusal::new(Code::NoInvoice, "the wallet is away"));
        sale.feed(Input::InvoiceMade { order, seq, result });
        assert_eq!(sale.refused(), Some(Code::NoInvoice));
        assert_eq!((sale.cancelled, sale.machine.active()), (!entry, 0));
    }
}

#[test]
fn a_buyer_is_late_with_an_invoice_whatever_the_engine_may_still_do() {
    let mut sale = Sale::running(8_000);
    sale.produces(13, None);
    assert_eq!((sale.invoices(), sale.allowed), (vec![4_050], Some(28)));
    let asked = sale.ms;
    sale.passes_until(asked + 59_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(asked + 60_000);
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    // So it is once all output is there.
    let mut sale = Sale::running(8_000);
    sale.produces(3, Some(Finish::Stop));
    let asked = sale.ms;
    sale.passes_until(asked + 60_000);
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    assert_eq!((sale.offences(), sale.account().1), (1, Msat(1_550)));
}

#[test]
fn an_engine_that_stays_silent_for_six_minutes_has_failed() {
    let mut sale = Sale::running(4_000);
    sale.passes_until(300_000);
    sale.produces(1, None);
    let heard = sale.ms;
    sale.passes_until(heard + 359_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(heard + 420_000);
    assert_eq!(sale.refused(), Some(Code::EngineFailed));
    assert_eq!(
        sale.refusal().unwrap().message,
        "the engine gave no output for 360 s"
    );
    assert!(sale.cancelled);
}

#[test]
fn each_step_has_its_time_and_the_refusal_says_which_was_missed() {
    // The wallet makes no entry invoice.
    let mut sale = Sale::new(0);
    sale.slow = true;
    let mut sale = sale.offered(offer(), &ordered());
    let came = 3;
    assert_eq!(sale.machine.deadline(), Some(at(60_000 + came).tick));
    sale.passes_until(60_000 + came);
    assert_eq!(sale.refused(), Some(Code::Timeout));
    // Nobody accepts the terms.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.passes_until(59_999 + came);
    assert_eq!(sale.refused(), None);
    sale.passes_until(60_000 + came);
    let said = sale.refusal().map(|refusal| refusal.message.as_str());
    assert_eq!(said, Some("the terms were not accepted in time"));
    assert_eq!(sale.refused(), Some(Code::NotPaid));
    // The entry does not arrive: its invoice is good for a minute, and two more are waited.
    let mut sale = Sale::new(0).offered(offer(), &ordered());
    sale.accepts();
    let accepted = sale.ms;
    sale.passes_until(accepted + 179_999);
    assert_eq!(sale.refused(), None);
    sale.passes_until(accepted + 180_000);
    let said = sale.refusal().map(|refusal| refusal.message.as_str());
    assert_eq!(said, Some("the entry payment did not arrive in time"));
    assert_eq!(sale.refused(), Some(Code::NotPaid));
}
