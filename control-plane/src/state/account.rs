//! Chat accounts: which of them speak for which principal, and how that was proven.
//!
//! An account is the platform, the tenant and the id that the platform never gives to another account. A name or an
//! address is nobody: both can be taken by somebody else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::audit::Entry;
use super::deadline::Due;
use super::{Actor, Done, Event, Millis, Principal, Refused, Role, State};

/// How long a code can be shown by the account that is to be linked.
const OFFER_MS: Millis = 10 * 60 * 1000;
/// Wrong codes of one account, until its next offer is over: after so many, none counts.
const TRIES: u32 = 5;
const FIELD_BYTES: usize = 128;
/// As long as Matrix lets them be.
const USER_BYTES: usize = 255;
const ACCOUNTS: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Account {
    /// As the adapter is called: "slack".
    pub platform: String,
    /// Workspace, server, organisation: whatever the platform keeps its accounts apart by; empty where it has none.
    pub tenant: String,
    /// Immutable.
    pub user: String,
}

/// A principal in an authenticated session was given a code, to be said by the account that is theirs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    principal: String,
    platform: String,
    expires_at: Millis,
}

/// Offers by the hash of their code, and accounts that said wrong ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Offers {
    by_code: BTreeMap<[u8; 32], Offer>,
    wrong: BTreeMap<Account, (u32, Millis)>,
}

impl State {
    /// Only people themselves link accounts to themselves: whoever holds the session gets the code.
    pub(super) fn offer_link(
        &mut self,
        actor: &Actor,
        platform: &str,
        code_sha256: &[u8; 32],
    ) -> Result<Done, Refused> {
        let Actor::Principal(name) = actor else {
            return Err(Refused::Denied("only people link accounts, each to themselves".into()));
        };
        self.active_principal_named(name)?;
        check_field("platform", platform)?;
        if platform.is_empty() {
            return Err(Refused::Invalid(
                "the platform is missing: say which, as \"slack\"".into(),
            ));
        }
        let expires_at = self.log_time.saturating_add(OFFER_MS);
        // One at a time for each principal and platform: a new code makes the former worth nothing.
        self.offers
            .by_code
            .retain(|_, offer| offer.principal != *name || offer.platform != platform);
        let offer = Offer { principal: name.clone(), platform: platform.to_owned(), expires_at };
        self.offers.by_code.insert(*code_sha256, offer);
        self.deadlines.set(Due::Offers, expires_at);
        let entry = Entry::new("account.offer", name).with("platform", platform);
        Ok(Done::changed(Event::LinkOffered { principal: name.clone(), expires_at }, entry))
    }

    /// An account has said a code; the adapter has verified which account it was.
    pub(super) fn link_account(
        &mut self,
        actor: &Actor,
        code_sha256: &[u8; 32],
        account: &Account,
    ) -> Result<Done, Refused> {
        if *actor != Actor::System {
            return Err(Refused::Denied("only an adapter says which account has spoken".into()));
        }
        account.check()?;
        let now = self.log_time;
        if self.has_guessed_too_often(account) {
            return Err(Refused::Denied(
                "the account was not linked: too many wrong codes; try again in ten minutes".into(),
            ));
        }
        let offer = self.offers.by_code.get(code_sha256).filter(|offer| {
            now < offer.expires_at
                && offer.platform == account.platform
                && self.principals.get(&offer.principal).is_some_and(|p| p.active)
        });
        let Some(principal) = offer.map(|offer| offer.principal.clone()) else {
            let tries = self.count_wrong_code(account);
            let entry = account.entry("account.refused").with("tries", tries);
            return Ok(Done::changed(Event::LinkRefused, entry));
        };
        if let Some(other) = self.principal_of(account).filter(|p| p.name != principal) {
            return Err(Refused::AlreadyExists(format!(
                "the account was not linked: it is {}'s already; unlink it there first",
                other.name
            )));
        }
        let linked = self.active_principal_named(&principal)?;
        if linked.accounts.len() >= ACCOUNTS {
            return Err(Refused::Precondition(format!(
                "the account was not linked: {principal} has {ACCOUNTS} already; unlink one first"
            )));
        }
        linked.accounts.insert(account.clone());
        self.offers.by_code.remove(code_sha256);
        let entry = account.entry("account.link").with("principal", &principal);
        Ok(Done::changed(Event::PrincipalChanged { name: principal, approvals: Vec::new() }, entry))
    }

    /// By the principal, or an administrator: from then on the account speaks for nobody.
    pub(super) fn unlink_account(
        &mut self,
        actor: &Actor,
        principal: &str,
        account: &Account,
    ) -> Result<Done, Refused> {
        if !matches!(actor, Actor::Principal(own) if own == principal) {
            self.demand_role(actor, &[Role::Admin])?;
        }
        let event = Event::PrincipalChanged { name: principal.to_owned(), approvals: Vec::new() };
        if !self.active_principal_named(principal)?.accounts.remove(account) {
            return Ok(Done::unchanged(event));
        }
        let entry = account.entry("account.unlink").with("principal", principal);
        Ok(Done::changed(event, entry))
    }

    /// Whom an account speaks for.
    pub fn principal_of(&self, account: &Account) -> Option<&Principal> {
        self.principals.values().find(|p| p.active && p.accounts.contains(account))
    }

    /// Whether an agent can act as this account, because a credential that is in use acts as it.
    pub(super) fn is_in_an_agents_hands(&self, account: &Account) -> bool {
        self.credentials.values().any(|c| c.active && c.acts_as.as_ref() == Some(account))
    }

    pub(super) fn has_guessed_too_often(&self, account: &Account) -> bool {
        let wrong = self.offers.wrong.get(account);
        wrong.is_some_and(|(tries, until)| self.log_time < *until && *tries >= TRIES)
    }

    /// How often, lately, this account has said a code that is none.
    pub(super) fn count_wrong_code(&mut self, account: &Account) -> u32 {
        let now = self.log_time;
        let until = now.saturating_add(OFFER_MS);
        let before = self.offers.wrong.get(account).filter(|(_, until)| now < *until);
        let tries = before.map_or(1, |(tries, _)| tries.saturating_add(1));
        self.offers.wrong.insert(account.clone(), (tries, until));
        self.deadlines.set(Due::Offers, until);
        tries
    }

    pub(super) fn drop_old_offers(&mut self) {
        let now = self.log_time;
        self.offers.by_code.retain(|_, offer| now < offer.expires_at);
        self.offers.wrong.retain(|_, (_, until)| now < *until);
        let offers = self.offers.by_code.values().map(|offer| offer.expires_at);
        let wrong = self.offers.wrong.values().map(|(_, until)| *until);
        if let Some(next) = offers.chain(wrong).min() {
            self.deadlines.set(Due::Offers, next);
        }
    }
}

impl Account {
    pub(super) fn check(&self) -> Result<(), Refused> {
        check_field("platform", &self.platform)?;
        check_field("tenant", &self.tenant)?;
        check_user(&self.user)?;
        if self.platform.is_empty() || self.user.is_empty() {
            return Err(Refused::Invalid(
                "an account has a platform and the platform's immutable id of the user".into(),
            ));
        }
        Ok(())
    }

    fn entry(&self, action: &str) -> Entry {
        Entry::new(action, self)
    }
}

/// As `platform/tenant/user`: only the user may have slashes in it (Matrix, "User identifiers").
impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.platform, self.tenant, self.user)
    }
}

impl std::str::FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.splitn(3, '/').map(str::to_owned).collect();
        let [platform, tenant, user] = <[String; 3]>::try_from(parts).map_err(|_| {
            "an account is PLATFORM/TENANT/USER, with the platform's immutable ids".to_owned()
        })?;
        let account = Self { platform, tenant, user };
        account.check().map_err(|why| why.to_string())?;
        Ok(account)
    }
}

fn check_user(text: &str) -> Result<(), Refused> {
    if text.len() <= USER_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
    {
        return Ok(());
    }
    Err(Refused::Invalid(format!(
        "an account's user is at most {USER_BYTES} visible ASCII characters without ','"
    )))
}

fn check_field(what: &str, text: &str) -> Result<(), Refused> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b',';
    if text.len() <= FIELD_BYTES && text.bytes().all(fits) {
        return Ok(());
    }
    Err(Refused::Invalid(format!(
        "an account's {what} is at most {FIELD_BYTES} visible ASCII characters without '/' and ','"
    )))
}
