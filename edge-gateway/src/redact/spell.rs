//! The ways in which an upstream may write a key.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use zeroize::Zeroizing;

/// A spelling shorter than this is not looked for, unless it is the key itself: it would mask the innocent.
const SHORTEST: usize = 4;

/// All spellings, without duplicates; overwritten when dropped, as the keys are.
pub(super) fn spellings(secrets: &[&[u8]]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut all = Vec::new();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let derived = in_base64(secret)
            .chain([hex::encode(secret).into_bytes(), hex::encode_upper(secret).into_bytes()])
            .chain(ESCAPES.iter().map(|escape| escaped(secret, *escape)))
            // A header's name arrives in lower case.
            .chain([secret.to_ascii_lowercase()]);
        all.extend(derived.map(Zeroizing::new).filter(|spelling| spelling.len() >= SHORTEST));
        all.push(Zeroizing::new(secret.to_vec()));
    }
    all.sort_unstable_by(|a, b| a.as_slice().cmp(b.as_slice()));
    all.dedup();
    all
}

/// The letters that are the key's alone, for each of the three places in a group where it may begin.
fn in_base64(secret: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    [alphabet::STANDARD, alphabet::URL_SAFE].into_iter().flat_map(move |alphabet| {
        (0..3usize).map(move |offset| {
            let mut padded = Zeroizing::new(Vec::with_capacity(offset + secret.len()));
            padded.resize(offset, 0);
            padded.extend_from_slice(secret);
            let text = Zeroizing::new(GeneralPurpose::new(&alphabet, NO_PAD).encode(&*padded));
            let (first, last) = ((8 * offset).div_ceil(6), 8 * padded.len() / 6);
            text.as_bytes().get(first..last).unwrap_or_default().to_vec()
        })
    })
}

fn escaped(secret: &[u8], escape: Escape) -> Vec<u8> {
    // Sized once, by the longest escape: growing would leave a copy behind.
    let mut out = Vec::with_capacity(6 * secret.len());
    secret.iter().for_each(|byte| out.extend(escape(*byte)));
    out
}

type Escape = fn(u8) -> Vec<u8>;

/// Escapes byte by byte, each as some encoder in wide use does it.
const ESCAPES: &[Escape] = &[
    // Percent: RFC 3986's unreserved left alone, a path segment's characters left alone, a form's, and none.
    |b| percent(b, b"-._~", "%{upper}"),
    |b| percent(b, b"-._~", "%{lower}"),
    |b| percent(b, b"-._~!$&'()*+,;=:@", "%{upper}"),
    |b| percent(b, b"-._~!$&'()*+,;=:@/", "%{lower}"),
    |b| percent(b, b"-._~!*'()", "%{upper}"),
    |b| if b == b' ' { b"+".to_vec() } else { percent(b, b"*-._", "%{upper}") },
    |b| written(b, "%{upper}"),
    |b| written(b, "%{lower}"),
    // JSON and JavaScript: what must be, the slash as well, what HTML would mind in either case, everything.
    |b| json(b, b"", "\\u00{lower}"),
    |b| json(b, b"", "\\u00{upper}").into_iter().flat_map(slashed).collect(),
    |b| json(b, b"<>&'", "\\u00{lower}"),
    |b| json(b, b"<>&'", "\\u00{lower}").into_iter().flat_map(slashed).collect(),
    |b| json(b, b"<>&'+`=/", "\\u00{lower}"),
    |b| json(b, b"<>&'+`", "\\u00{upper}"),
    |b| written(b, "\\u00{lower}"),
    |b| written(b, "\\u00{upper}"),
    |b| written(b, "\\x{lower}"),
    |b| written(b, "\\x{upper}"),
    // HTML: names, and numbers in either base, for what must be and for everything.
    |b| html(b, "&quot;", "&#39;", b""),
    |b| html(b, "&#34;", "&#39;", b""),
    |b| html(b, "&quot;", "&#x27;", b""),
    |b| html(b, "&quot;", "&apos;", b""),
    |b| html(b, "&quot;", "&#39;", b"/`="),
    |b| html(b, "&quot;", "&#x27;", b"/`="),
    |b| written(b, "&#{decimal};"),
    |b| written(b, "&#x{lower};"),
    |b| written(b, "&#x{upper};"),
    |b| written(b, "&#X{upper};"),
];

fn written(byte: u8, form: &str) -> Vec<u8> {
    form.replace("{upper}", &format!("{byte:02X}"))
        .replace("{lower}", &format!("{byte:02x}"))
        .replace("{decimal}", &byte.to_string())
        .into_bytes()
}

fn percent(byte: u8, plain: &[u8], form: &str) -> Vec<u8> {
    if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
        vec![byte]
    } else {
        written(byte, form)
    }
}

fn json(byte: u8, also: &[u8], form: &str) -> Vec<u8> {
    match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b if b.is_ascii_control() || also.contains(&b) => written(b, form),
        b => vec![b],
    }
}

fn slashed(byte: u8) -> Vec<u8> {
    if byte == b'/' { b"\\/".to_vec() } else { vec![byte] }
}

fn html(byte: u8, quote: &str, apostrophe: &str, also: &[u8]) -> Vec<u8> {
    match byte {
        b'&' => b"&amp;".to_vec(),
        b'<' => b"&lt;".to_vec(),
        b'>' => b"&gt;".to_vec(),
        b'"' => quote.as_bytes().to_vec(),
        b'\'' => apostrophe.as_bytes().to_vec(),
        b if also.contains(&b) => written(b, "&#x{upper};"),
        b => vec![b],
    }
}
