//! A noun each: what was typed becomes one or two calls, and their answers become text.

pub(crate) mod agent;
pub(crate) mod approval;
pub(crate) mod approver;
pub(crate) mod audit;
pub(crate) mod card;
pub(crate) mod change;
pub(crate) mod channel;
pub(crate) mod cluster;
pub(crate) mod credential;
pub(crate) mod doctor;
pub(crate) mod edge;
pub(crate) mod env;
pub(crate) mod grant;
pub(crate) mod login;
pub(crate) mod manual;
pub(crate) mod mcp;
pub(crate) mod policy;
pub(crate) mod seal;
pub(crate) mod status;

/// How many records to ask for at a time.
const PAGE: i32 = 500;

/// Every page of a list: `$call` is the client's method, `$request` the request without its paging, `$field` the list.
macro_rules! every_page {
    ($admin:expr, $call:ident, $request:ident { $($set:tt)* }, $field:ident) => {{
        let mut all = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::$request { page_size: $crate::cmd::PAGE, page_token, $($set)* };
            let page = $admin.$call(request).await?.into_inner();
            all.extend(page.$field);
            if page.next_page_token.is_empty() {
                break all;
            }
            page_token = page.next_page_token;
        }
    }};
}
pub(crate) use every_page;

/// A part that every such answer has.
fn part<T>(part: Option<T>) -> Result<T, crate::failure::Failure> {
    part.ok_or_else(|| {
        crate::failure::Failure::refused(
            "the control plane's answer is incomplete: is it of another version?",
        )
    })
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}
