//! What must not print.

use std::fmt;

/// A password. Shown by nothing: there is no `Display`, and `Debug` says only what it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever logs in with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::from("s3cret".to_owned());
        assert_eq!(
            format!("{:?} {:#?}", secret, Some(&secret))
                .matches("s3cret")
                .count(),
            0
        );
        assert_eq!(secret.expose(), "s3cret");
    }
}
