//! `when`.

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct When {
    #[allow(dead_code)]
    source: String,
}

impl When {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn compile(source: &str) -> Result<Self, Vec<String>> {
        Ok(Self { source: source.to_owned() })
    }

    pub(crate) fn judge(&self, _case: &crate::judge::Case<'_>) -> crate::truth::Truth {
        crate::truth::Truth::unread("not evaluated")
    }
}
