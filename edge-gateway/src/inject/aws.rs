//! A request that was signed with a fake access key (AWS Signature Version 4): its signature is thrown away, and what
//! the control plane needs to make another one goes into the plan.

use std::collections::BTreeSet;

use countersign_gate::Slot;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use crate::freeze::Draft;

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Takes the signature out, if it was made with one of these fake access keys. The plan names the headers that will
/// be set, and the manner: `aws-sigv4 REGION/SERVICE SIGNED-HEADERS`, the last sorted, with semicolons between them.
///
/// # Errors
/// What there is that cannot be signed again, and what to do.
pub(super) fn take_out(draft: &mut Draft, fakes: &[String]) -> Result<Option<Slot>, String> {
    presigned(draft, fakes)?;
    let mut values = draft.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
    let Some((algorithm, said)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Ok(None);
    };
    let named = |name: &str| {
        said.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
    };
    let mut scope = named("Credential").unwrap_or_default().split('/');
    if !scope.next().is_some_and(|key| fakes.iter().any(|fake| fake == key)) {
        return Ok(None);
    }
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(format!(
            "the request is signed with {algorithm}, and Countersign signs with AWS4-HMAC-SHA256 alone: have the client sign for one region, not for several"
        ));
    }
    let word = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let (_date, region, service) = (scope.next(), scope.next(), scope.next());
    let (Some(region), Some(service), Some("aws4_request"), None) =
        (region.filter(word), service.filter(word), scope.next(), scope.next())
    else {
        return Err(
            "the credential scope of the request's signature is not DATE/REGION/SERVICE/aws4_request"
                .into(),
        );
    };
    vouched(&draft.headers)?;

    let stays = |name: &str| {
        draft.headers.keys().any(|there| there.as_str() == name)
            && ![AUTHORIZATION, DATE, TOKEN].iter().any(|n| n == name)
    };
    let asked = named("SignedHeaders").unwrap_or_default().split(';');
    // Whatever is Amazon's own must be signed, whether the client knew that or not.
    let amazon = draft.headers.keys().map(HeaderName::as_str).filter(|n| n.starts_with("x-amz-"));
    let mut signed: BTreeSet<&str> = asked.chain(amazon).filter(|name| stays(name)).collect();
    signed.extend(["host", "x-amz-date"]);
    let signed = signed.into_iter().collect::<Vec<_>>().join(";");
    let manner = format!("aws-sigv4 {region}/{service} {signed}");
    for name in [AUTHORIZATION, DATE, TOKEN] {
        draft.headers.remove(name);
    }
    Ok(Some(Slot::Signed { names: vec![AUTHORIZATION, DATE, TOKEN], manner }))
}

/// A signature in the query is one that others are meant to use, for as long as it says.
fn presigned(draft: &Draft, fakes: &[String]) -> Result<(), String> {
    let with_fake = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = percent_decode_str(name).decode_utf8_lossy();
        let value = percent_decode_str(value).decode_utf8_lossy();
        let key = value.split('/').next().unwrap_or_default();
        name.eq_ignore_ascii_case("x-amz-credential") && fakes.iter().any(|fake| fake == key)
    };
    if !draft.query.as_deref().unwrap_or_default().split('&').any(with_fake) {
        return Ok(());
    }
    Err("the request is a presigned URL, and Countersign signs each request once, as it leaves: have the client sign in the Authorization header, and not in a URL".into())
}

/// Whether a signature over X-Amz-Content-Sha256 is all that the service wants to see of the body.
fn vouched(headers: &HeaderMap) -> Result<(), String> {
    let mut values = headers.get_all(CONTENT_SHA256).iter();
    let said = match (values.next(), values.next()) {
        (None, _) => return Ok(()),
        (Some(said), None) => said.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return Err("X-Amz-Content-Sha256 is there twice".into()),
    };
    match said {
        "UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(()),
        said if is_digest(said) => Ok(()),
        streaming if streaming.starts_with("STREAMING-") => Err(format!(
            "the chunks of the body are signed one by one with the fake key (X-Amz-Content-Sha256: {streaming}), and cannot be signed anew: turn chunked signing off in the client (in the AWS SDK for Java, chunkedEncodingEnabled(false)), so that it signs the body as a whole or sends UNSIGNED-PAYLOAD"
        )),
        _ => Err("X-Amz-Content-Sha256 is neither a SHA-256 in lower-case hexadecimal nor UNSIGNED-PAYLOAD".into()),
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A body that its digest does not fit would be refused by the service, after people had approved it.
pub(super) fn check_body(headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let said = headers.get(CONTENT_SHA256).and_then(|said| said.to_str().ok()).unwrap_or_default();
    if is_digest(said) && said != hex::encode(Sha256::digest(body)) {
        return Err("X-Amz-Content-Sha256 is not the SHA-256 of the body".into());
    }
    Ok(())
}
