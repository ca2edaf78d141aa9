//! Stripe: money, and what leads to it. Bodies are forms; amounts are in the smallest unit of their currency.

use crate::ask::Ask;
use crate::table::{Row, look_up};
use crate::words::word;
use crate::{Risk, Said, Undecidable};
use Risk::{Destructive, Messages, Money, People, Read, Write};

pub(crate) fn describe(ask: &mut Ask<'_>) -> Said {
    if ask.method == "POST" {
        ask.legible()?;
    }
    let path = ask.path();
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    let said = match (ask.method, path.as_slice()) {
        ("POST", ["v1", "refunds"]) => refund(ask),
        ("POST", ["v1", "payouts"]) => amount(ask, "Pay out", "[ to {.destination}]"),
        ("POST", ["v1", "transfers"]) => amount(ask, "Transfer", " to account {.destination}"),
        ("POST", ["v1", "topups"]) => amount(ask, "Top up the balance by", ""),
        ("POST", ["v1", "charges"]) => {
            amount(ask, "Charge", "[ to customer {.customer}][ with {.source}]")
        }
        ("POST", ["v1", "payment_intents"]) => {
            amount(ask, "Ask for a payment of", "[ from customer {.customer}]")
        }
        ("POST", ["v1", "invoiceitems"]) => {
            amount(ask, "Bill", " to customer {.customer}[: {'.description}]")
        }
        ("POST", ["v1", "prices"]) => amount(ask, "Set a price of", "[ for product {.product}]"),
        _ => look_up(ask, ROWS),
    }?;
    if said.is_some() {
        ask.fact("For connected account", "@stripe-account");
    }
    Ok(said)
}

fn refund(ask: &mut Ask<'_>) -> Said {
    let of = match (ask.text(".payment_intent"), ask.text(".charge"), ask.text(".customer")) {
        (Some(payment), None, _) => format!("of payment {}", word(&payment)),
        (None, Some(charge), _) => format!("of charge {}", word(&charge)),
        (None, None, Some(customer)) => format!("to customer {}", word(&customer)),
        _ => return Err(Undecidable("a refund that does not say of what")),
    };
    let sentence = match (ask.has(".amount"), ask.text(".currency")) {
        (false, _) => format!("Refund all that is left {of}"),
        (true, Some(_)) => format!("Refund {} {of}", money(ask)?),
        (true, None) => {
            let number = whole(ask)?;
            let unit = "of the smallest unit of its currency";
            ask.say("Amount", format!("{number} {unit}"), &[".amount"]);
            format!("Refund {number} ({unit}) {of}")
        }
    };
    for (name, field) in [
        ("Payment", ".payment_intent"),
        ("Charge", ".charge"),
        ("Customer", ".customer"),
        ("Reason", ".reason"),
        ("Takes the transfer back", ".reverse_transfer"),
        ("Refunds the fee", ".refund_application_fee"),
    ] {
        ask.fact(name, field);
    }
    Ok(Some((Money, sentence)))
}

/// A call that moves an amount that it names.
fn amount(ask: &mut Ask<'_>, verb: &str, rest: &str) -> Said {
    let field = if ask.has(".unit_amount") { ".unit_amount" } else { ".amount" };
    let sum = money_of(ask, field)?;
    let rest = crate::table::fill(ask, rest, &[])?;
    for (name, field) in [
        ("To", ".destination"),
        ("Customer", ".customer"),
        ("Source", ".source"),
        ("Payment method", ".payment_method"),
        ("Product", ".product"),
        ("At once", ".confirm"),
        ("Off session", ".off_session"),
        ("Method", ".method"),
        ("Every", ".recurring[interval]"),
        ("Description", ".description"),
        ("On the statement", ".statement_descriptor"),
        ("Mail the receipt to", ".receipt_email"),
    ] {
        ask.fact(name, field);
    }
    Ok(Some((Money, format!("{verb} {sum}{rest}"))))
}

fn money(ask: &mut Ask<'_>) -> Result<String, Undecidable> {
    money_of(ask, ".amount")
}

/// Says the amount with its currency.
fn money_of(ask: &mut Ask<'_>, field: &str) -> Result<String, Undecidable> {
    let number = ask.need(field)?;
    let currency = ask.need(".currency")?;
    let sum = in_major_units(&number, &currency)?;
    ask.say("Amount", sum.clone(), &[field, ".currency"]);
    Ok(sum)
}

fn whole(ask: &Ask<'_>) -> Result<String, Undecidable> {
    let number = ask.need(".amount")?;
    digits(&number)?;
    Ok(number)
}

fn digits(number: &str) -> Result<(), Undecidable> {
    let plain = !number.is_empty()
        && number.len() <= 15
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && (number == "0" || !number.starts_with('0'));
    if plain { Ok(()) } else { Err(Undecidable("an amount that is not a plain whole number")) }
}

/// What Stripe takes an amount for: `12000` and `eur` are 120.00 EUR. ISK and UGX are written as if they had decimals
/// (docs.stripe.com/currencies).
pub(super) fn in_major_units(number: &str, currency: &str) -> Result<String, Undecidable> {
    const WHOLE: [&str; 15] = [
        "BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF",
        "XOF", "XPF",
    ];
    const THOUSANDTHS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];
    digits(number)?;
    let currency = currency.to_ascii_uppercase();
    if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(Undecidable("a currency that is none"));
    }
    let decimals = match currency.as_str() {
        code if WHOLE.contains(&code) => 0,
        code if THOUSANDTHS.contains(&code) => 3,
        _ => 2,
    };
    if decimals == 0 {
        return Ok(format!("{number} {currency}"));
    }
    let padded = format!("{number:0>width$}", width = decimals + 1);
    let (whole, part) = padded.split_at(padded.len() - decimals);
    Ok(format!("{whole}.{part} {currency}"))
}

const ROWS: &[Row] = &[
    Row(
        "DELETE",
        "/v1/customers/{customer}",
        Destructive,
        "Delete customer {customer}, and end their subscriptions",
        &[],
    ),
    Row(
        "DELETE",
        "/v1/subscriptions/{subscription}",
        Money,
        "Cancel subscription {subscription} now",
        &[
            ("Prorate", "?prorate"),
            ("Prorate", ".prorate"),
            ("Invoice now", "?invoice_now"),
            ("Invoice now", ".invoice_now"),
        ],
    ),
    Row("DELETE", "/v1/accounts/{account}", Destructive, "Delete connected account {account}", &[]),
    Row(
        "POST",
        "/v1/accounts/{account}/reject",
        Destructive,
        "Reject connected account {account} for {.reason}",
        &[("Reason", ".reason")],
    ),
    Row("DELETE", "/v1/coupons/{coupon}", Destructive, "Delete coupon {coupon}", &[]),
    Row("DELETE", "/v1/products/{product}", Destructive, "Delete product {product}", &[]),
    Row("DELETE", "/v1/plans/{plan}", Destructive, "Delete plan {plan}", &[]),
    Row("DELETE", "/v1/invoices/{invoice}", Destructive, "Delete draft invoice {invoice}", &[]),
    Row(
        "POST",
        "/v1/payment_intents/{payment}/capture",
        Money,
        "Capture payment {payment}[, {.amount_to_capture} of the smallest unit of its currency]",
        &[("Amount", ".amount_to_capture"), ("The last one", ".final_capture")],
    ),
    Row(
        "POST",
        "/v1/payment_intents/{payment}/confirm",
        Money,
        "Carry out payment {payment}[ with {.payment_method}]",
        &[("Payment method", ".payment_method"), ("Off session", ".off_session")],
    ),
    Row(
        "POST",
        "/v1/payment_intents/{payment}/cancel",
        Money,
        "Cancel payment {payment}",
        &[("Reason", ".cancellation_reason")],
    ),
    Row(
        "POST",
        "/v1/charges/{charge}/capture",
        Money,
        "Capture charge {charge}[, {.amount} of the smallest unit of its currency]",
        &[("Amount", ".amount")],
    ),
    Row(
        "POST",
        "/v1/charges/{charge}/refund",
        Money,
        "Refund charge {charge}[, {.amount} of the smallest unit of its currency]",
        &[("Amount", ".amount")],
    ),
    Row(
        "POST",
        "/v1/transfers/{transfer}/reversals",
        Money,
        "Take transfer {transfer} back[, {.amount} of the smallest unit of its currency]",
        &[("Amount", ".amount")],
    ),
    Row("POST", "/v1/payouts/{payout}/cancel", Money, "Cancel payout {payout}", &[]),
    Row(
        "POST",
        "/v1/invoices/{invoice}/pay",
        Money,
        "Collect invoice {invoice}",
        &[("Payment method", ".payment_method"), ("Paid elsewhere", ".paid_out_of_band")],
    ),
    Row("POST", "/v1/invoices/{invoice}/void", Money, "Void invoice {invoice}", &[]),
    Row(
        "POST",
        "/v1/invoices/{invoice}/mark_uncollectible",
        Money,
        "Give up on invoice {invoice}",
        &[],
    ),
    Row(
        "POST",
        "/v1/invoices/{invoice}/finalize",
        Money,
        "Finalise invoice {invoice}",
        &[("Go on by itself", ".auto_advance")],
    ),
    Row(
        "POST",
        "/v1/invoices/{invoice}/send",
        Messages,
        "Send invoice {invoice} to its customer",
        &[],
    ),
    Row(
        "POST",
        "/v1/credit_notes",
        Money,
        "Credit invoice {.invoice}[ by {.amount} of the smallest unit of its currency]",
        &[
            ("Invoice", ".invoice"),
            ("Amount", ".amount"),
            ("Refund", ".refund_amount"),
            ("Credit", ".credit_amount"),
            ("Reason", ".reason"),
        ],
    ),
    Row("POST", "/v1/disputes/{dispute}/close", Money, "Give in to dispute {dispute}", &[]),
    Row(
        "POST",
        "/v1/subscriptions",
        Money,
        "Subscribe customer {.customer}[ to {.items[0][price]}]",
        &[
            ("Customer", ".customer"),
            ("Price", ".items[0][price]"),
            ("How many", ".items[0][quantity]"),
            ("Trial, days", ".trial_period_days"),
        ],
    ),
    Row(
        "POST",
        "/v1/subscriptions/{subscription}",
        Money,
        "Change subscription {subscription}",
        &[
            ("Cancel at its end", ".cancel_at_period_end"),
            ("Price", ".items[0][price]"),
            ("Coupon", ".coupon"),
        ],
    ),
    Row(
        "POST",
        "/v1/subscriptions/{subscription}/cancel",
        Money,
        "Cancel subscription {subscription} now",
        &[],
    ),
    Row(
        "POST",
        "/v1/customers/{customer}/balance_transactions",
        Money,
        "Change the balance of customer {customer} by {.amount} of the smallest unit of {.currency}",
        &[("Amount", ".amount"), ("Currency", ".currency"), ("Description", ".description")],
    ),
    Row(
        "POST",
        "/v1/coupons",
        Money,
        "Create a coupon[ of {.percent_off} %][ of {.amount_off} of the smallest unit of {.currency}]",
        &[
            ("Per cent", ".percent_off"),
            ("Amount", ".amount_off"),
            ("Currency", ".currency"),
            ("For how long", ".duration"),
            ("How often", ".max_redemptions"),
            ("Name", ".name"),
        ],
    ),
    Row(
        "POST",
        "/v1/payment_links",
        Money,
        "Create a payment link[ for {.line_items[0][price]}]",
        &[("Price", ".line_items[0][price]"), ("How many", ".line_items[0][quantity]")],
    ),
    Row(
        "POST",
        "/v1/webhook_endpoints",
        People,
        "Send events of this account to {.url}",
        &[("Address", ".url"), ("Events", ".enabled_events[0]")],
    ),
    Row(
        "POST",
        "/v1/accounts",
        People,
        "Create a connected account[ for {.email}]",
        &[("Address", ".email"), ("Kind", ".type"), ("Country", ".country")],
    ),
    Row(
        "POST",
        "/v1/accounts/{account}/external_accounts",
        Money,
        "Change where account {account} is paid out",
        &[("Account", ".external_account")],
    ),
    Row(
        "POST",
        "/v1/ephemeral_keys",
        People,
        "Make a short-lived key[ for customer {.customer}]",
        &[("Customer", ".customer")],
    ),
    Row(
        "POST",
        "/v1/customers",
        Write,
        "Create a customer[ with address {.email}]",
        &[("Address", ".email"), ("Name", ".name")],
    ),
    Row(
        "POST",
        "/v1/customers/{customer}",
        Write,
        "Change customer {customer}",
        &[("Address", ".email"), ("Name", ".name")],
    ),
    Row("POST", "/v1/products", Write, "Create product {'.name}", &[("Name", ".name")]),
    Row(
        "POST",
        "/v1/products/{product}",
        Write,
        "Change product {product}",
        &[("Active", ".active"), ("Name", ".name")],
    ),
    Row("GET", "/v1/customers/{customer}", Read, "Read customer {customer}", &[]),
    Row("GET", "/v1/balance", Read, "Read the balance", &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_decimals_of_their_currency() {
        for (number, currency, sum) in [
            ("12000", "eur", "120.00 EUR"),
            ("5", "usd", "0.05 USD"),
            ("500", "jpy", "500 JPY"),
            ("5120", "kwd", "5.120 KWD"),
            ("500", "isk", "5.00 ISK"),
        ] {
            assert_eq!(in_major_units(number, currency).as_deref(), Ok(sum));
        }
        for (number, currency) in [("1e3", "eur"), ("-5", "eur"), ("007", "eur"), ("5", "euro")] {
            assert!(in_major_units(number, currency).is_err(), "{number} {currency}");
        }
    }
}
