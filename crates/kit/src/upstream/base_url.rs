//! An upstream's address: checked once at the start, and joined with paths that cannot leave it.

use std::fmt::Write as _;

use url::{Host, Url};

/// A base URL that cannot be used, with the setting to correct. Does not repeat the URL, which may
/// hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct BaseUrlError {
    /// The setting, for example `MUSTER_LORAWAN_URL`.
    pub variable: String,
    /// What is wrong and what it should be: "must start with http:// or https://".
    pub problem: String,
}

impl BaseUrlError {
    pub(super) fn new(variable: &str, problem: impl Into<String>) -> Self {
        Self { variable: variable.to_owned(), problem: problem.into() }
    }
}

/// A base URL, checked: `http` or `https`, perhaps with a path, and nothing secret or changing in it.
/// `variable` is the setting it comes from and is named in the error.
pub fn parse_base_url(variable: &str, text: &str) -> Result<Url, BaseUrlError> {
    let wrong = |problem: &str| Err(BaseUrlError::new(variable, problem));
    let url = match Url::parse(text.trim()) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            return wrong("must start with http:// or https://");
        }
        Err(error) => return wrong(&format!("is not a URL: {error}")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return wrong("must start with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("must not hold a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("must end with its path, without ? or #");
    }
    Ok(url)
}

/// What [`Upstream::base`](super::Upstream::base) would be, for whoever does not call the service.
pub fn base(variable: &str, text: &str) -> Result<String, BaseUrlError> {
    BaseUrl::parse(variable, text).map(|base| base.prefix)
}

pub(super) struct BaseUrl {
    url: Url,
    /// Scheme, host, port and path, without a slash at the end.
    prefix: String,
    origin: String,
}

impl BaseUrl {
    pub(super) fn parse(variable: &str, text: &str) -> Result<Self, BaseUrlError> {
        let url = parse_base_url(variable, text)?;
        let prefix = url.as_str().trim_end_matches('/').to_owned();
        let origin = url.origin().ascii_serialization();
        Ok(Self { url, prefix, origin })
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether requests stay on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// The URL of `path`, which starts with `/`, has no `.` or `..` in it, and so stays below the
    /// base. An empty one is the base itself, with the slash at its end if it has one.
    pub(super) fn join(&self, path: &str) -> Result<Url, &'static str> {
        if path.is_empty() {
            return Ok(self.url.clone());
        }
        if !path.starts_with('/') {
            return Err("the path does not start with a slash");
        }
        let segments = path.split(['?', '#']).next().unwrap_or_default().split(['/', '\\']);
        let is_dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
        if segments.into_iter().any(is_dots) {
            return Err("the path has a dot segment");
        }
        Url::parse(&format!("{}{path}", self.prefix)).map_err(|_| "the path is not valid in a URL")
    }
}

/// A path of `segments`, each percent-encoded: `path(&["devices", id])` is `/devices/…` whatever
/// the id holds. (An id that is `.` or `..` makes a path that is refused when it is used.)
pub fn path(segments: &[&str]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn problem(text: &str) -> String {
        let error = BaseUrl::parse("MUSTER_CPX_URL", text).err().expect("refused").to_string();
        assert!(error.starts_with("MUSTER_CPX_URL "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        error
    }

    #[test]
    fn a_wrong_base_url_is_refused_with_the_variable_and_without_the_value() {
        assert!(problem("cpx.example:80/x").contains("http:// or https://"));
        assert!(problem("10.0.0.1").contains("http:// or https://"));
        assert!(problem("").contains("http:// or https://"));
        assert!(problem("ftp://cpx.example").contains("http:// or https://"));
        assert!(problem("http://u:hunter2@cpx.example").contains("password"));
        assert!(problem("http://hunter2@cpx.example").contains("user name"));
        assert!(problem("https://cpx.example/?token=hunter2").contains("without ?"));
        assert!(problem("https://cpx.example/#hunter2").contains('#'));
        assert!(problem("https://:80").contains("not a URL"));
    }

    #[test]
    fn a_path_is_put_below_the_base_with_exactly_one_slash_between() {
        for base in ["https://a.example/api/v1", "https://a.example/api/v1/", " https://a.example/api/v1 "] {
            let base = BaseUrl::parse("X", base).unwrap();
            assert_eq!(base.join("/devices?page=2").unwrap().as_str(), "https://a.example/api/v1/devices?page=2");
        }
    }

    #[test]
    fn no_path_is_the_base_to_the_letter() {
        for base in ["https://a.example/hook", "https://a.example/hook/", "https://a.example/"] {
            assert_eq!(BaseUrl::parse("X", base).unwrap().join("").unwrap().as_str(), base);
        }
    }

    #[test]
    fn no_path_leads_away_from_the_base() {
        let base = BaseUrl::parse("X", "http://10.0.0.1:8080/api").unwrap();
        for path in ["@evil.example", ".evil.example", "/../admin", "/a/%2E%2e/b", "/a/..", "/./a", "/a\\..\\b"] {
            assert!(base.join(path).is_err(), "{path}");
        }
        assert_eq!(base.join("//evil.example").unwrap().host_str(), Some("10.0.0.1"));
        assert_eq!(base.join("/a..b/...").unwrap().path(), "/api/a..b/...");
    }

    #[test]
    fn a_value_in_a_path_stays_one_segment() {
        assert_eq!(path(&["devices", "a/b?c#d e%"]), "/devices/a%2Fb%3Fc%23d%20e%25");
        assert_eq!(path(&["devices", "5f0c-1_~.x"]), "/devices/5f0c-1_~.x");
        assert_eq!(path(&[]), "");
    }

    #[test]
    fn loopback_is_known_by_name_and_number() {
        for (base, is) in [
            ("http://localhost:1", true),
            ("http://127.1.2.3", true),
            ("http://[::1]:80", true),
            ("http://10.0.0.1", false),
            ("https://localhost.example", false),
        ] {
            assert_eq!(BaseUrl::parse("X", base).unwrap().is_loopback(), is, "{base}");
        }
    }
}
