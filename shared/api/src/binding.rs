//! The content of a binding Secret: how an application connects to its database.
//!
//! The keys are those of the [Service Binding specification](https://servicebinding.io/spec/core/1.1.0/#well-known-secret-entries).
//! Both binding Secrets of a customer, the direct one and the pooled one, are encoded and decoded here and nowhere else.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;

/// Kind of the service.
pub const TYPE: &str = "type";
/// Who provides the service.
pub const PROVIDER: &str = "provider";
/// Host name or IP address.
pub const HOST: &str = "host";
/// Port number.
pub const PORT: &str = "port";
/// Name of the database.
pub const DATABASE: &str = "database";
/// Login.
pub const USERNAME: &str = "username";
/// Password of the login.
pub const PASSWORD: &str = "password";
/// All of the above as a [connection URI](https://www.postgresql.org/docs/17/libpq-connect.html#LIBPQ-CONNSTRING-URIS).
pub const URI: &str = "uri";
/// sslmode of libpq. Absent: the default of libpq, prefer.
pub const SSLMODE: &str = "sslmode";
/// CA certificates (PEM) by which the client verifies the server.
pub const CA: &str = "ca.crt";
/// SCRAM verifier of the password, as PostgreSQL stores it.
pub const VERIFIER: &str = "verifier";

/// The content of a binding Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BindingData {
    /// Host name or IP address.
    pub host: String,
    /// Port number.
    pub port: i32,
    /// Name of the database.
    pub database: String,
    /// Login.
    pub username: String,
    /// Password of the login.
    pub password: String,
    /// sslmode of libpq. `None`: the default of libpq.
    pub sslmode: Option<String>,
    /// CA certificates (PEM).
    pub ca: Option<String>,
    /// SCRAM verifier of the password; in the direct binding only.
    pub verifier: Option<String>,
}

impl BindingData {
    /// The entries of the Secret.
    #[must_use]
    pub fn encode(&self) -> BTreeMap<String, ByteString> {
        let (port, uri) = (self.port.to_string(), self.uri());
        let given = [
            (TYPE, "postgresql"),
            (PROVIDER, "ahoi"),
            (HOST, &self.host),
            (PORT, &port),
            (DATABASE, &self.database),
            (USERNAME, &self.username),
            (PASSWORD, &self.password),
            (URI, &uri),
        ];
        let optional = [(SSLMODE, &self.sslmode), (CA, &self.ca), (VERIFIER, &self.verifier)];
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
        let entry = |(key, value): (&str, &str)| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
        given.into_iter().chain(optional).map(entry).collect()
    }

    /// From the entries of a Secret. `None` if an entry that is needed to connect is missing, empty or not text.
    #[must_use]
    pub fn decode(data: &BTreeMap<String, ByteString>) -> Option<Self> {
        let required = |key: &str| text(data, key).filter(|value| !value.is_empty());
        Some(Self {
            host: required(HOST)?,
            port: required(PORT)?.parse().ok()?,
            database: required(DATABASE)?,
            username: required(USERNAME)?,
            password: required(PASSWORD)?,
            sslmode: text(data, SSLMODE),
            ca: text(data, CA),
            verifier: text(data, VERIFIER),
        })
    }

    /// The connection URI.
    #[must_use]
    pub fn uri(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let sslmode = self.sslmode.as_ref().map(|mode| format!("?sslmode={mode}")).unwrap_or_default();
        format!(
            "postgresql://{}:{}@{host}:{}/{}{sslmode}",
            percent_encode(&self.username),
            percent_encode(&self.password),
            self.port,
            percent_encode(&self.database)
        )
    }
}

impl fmt::Debug for BindingData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password and its verifier.
        f.debug_struct("BindingData")
            .field("host", &self.host)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An entry of a Secret, if it is text.
#[must_use]
pub fn text(data: &BTreeMap<String, ByteString>, key: &str) -> Option<String> {
    String::from_utf8(data.get(key)?.0.clone()).ok()
}

/// The password in a connection URI.
#[must_use]
pub fn password_of(uri: &str) -> Option<String> {
    let (login, _) = uri.strip_prefix("postgresql://")?.split_once('@')?;
    percent_decode(login.split_once(':')?.1)
}

/// Encodes all bytes but the unreserved characters of [RFC 3986](https://www.rfc-editor.org/rfc/rfc3986#section-2.3).
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Reverses [`percent_encode`]. `None` if the text has an invalid escape or is not UTF-8.
#[must_use]
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? * 16 + digit(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn binding(host: &str, password: &str) -> BindingData {
        BindingData {
            host: host.into(),
            port: 5433,
            database: "c_3f2504e04f89".into(),
            username: "c_3f2504e04f89_a".into(),
            password: password.into(),
            ..BindingData::default()
        }
    }

    #[test]
    fn uri_of_an_ipv6_address_and_a_special_password() {
        let binding = BindingData { sslmode: Some("require".into()), ..binding("fd00::5", "p@ss/w:rd?") };
        assert_eq!(
            binding.uri(),
            "postgresql://c_3f2504e04f89_a:p%40ss%2Fw%3Ard%3F@[fd00::5]:5433/c_3f2504e04f89?sslmode=require"
        );
    }

    #[test]
    fn keys_of_the_service_binding_specification() {
        let binding = BindingData { verifier: Some("v".into()), ..binding("pg-1", "abc") };
        let data = binding.encode();
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        let expected = ["database", "host", "password", "port", "provider", "type", "uri", "username", "verifier"];
        assert_eq!(keys, expected);
        assert_eq!(text(&data, "uri").as_deref(), Some("postgresql://c_3f2504e04f89_a:abc@pg-1:5433/c_3f2504e04f89"));
    }

    #[test]
    fn an_incomplete_secret_is_not_decoded() {
        for key in [HOST, PORT, DATABASE, USERNAME, PASSWORD] {
            let mut data = binding("pg-1", "abc").encode();
            data.insert(key.to_owned(), ByteString(Vec::new()));
            assert_eq!(BindingData::decode(&data), None, "{key} is empty");
            data.remove(key);
            assert_eq!(BindingData::decode(&data), None, "{key} is missing");
        }
        let mut data = binding("pg-1", "abc").encode();
        data.insert(PASSWORD.to_owned(), ByteString(vec![0xff]));
        assert_eq!(BindingData::decode(&data), None);
    }

    #[test]
    fn invalid_escapes_are_not_decoded() {
        for text in ["%", "%4", "%zz", "%ff", "%4ö"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }

    #[test]
    fn debug_output_has_no_password() {
        assert!(!format!("{:?}", binding("pg-1", "secret")).contains("secret"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            host in "[a-z0-9.:-]{1,20}", port in 1..65_536_i32, database in ".{1,20}", username in ".{1,20}",
            password in ".{1,40}", sslmode in proptest::option::of("[a-z-]{1,12}"), ca in proptest::option::of(".{0,20}"),
        ) {
            let binding = BindingData { host, port, database, username, password, sslmode, ca, verifier: None };
            let data = binding.encode();
            prop_assert_eq!(password_of(&binding.uri()), Some(binding.password.clone()));
            prop_assert_eq!(BindingData::decode(&data), Some(binding));
        }

        #[test]
        fn encoded_text_is_unreserved(text in ".{0,40}") {
            let encoded = percent_encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }
    }
}
