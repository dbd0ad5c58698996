//! When a credential expires: the end of an X.509 certificate, and that of a JSON Web Token.
//!
//! Certificates: RFC 5280, section 4.1; tokens: RFC 7519, section 4.1.4. Nothing is verified here:
//! servers do that. peerwall only warns ahead.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{self, Keep};

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The optional version, `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Returns the end of a certificate in DER, in seconds since 1970; `None` if it cannot be read.
pub fn certificate_end(der: &[u8]) -> Option<u64> {
    let (tag, certificate, _) = element(der)?;
    let (inner_tag, mut fields, _) = element(certificate)?;
    if (tag, inner_tag) != (SEQUENCE, SEQUENCE) {
        return None;
    }
    // Version, serial number, signature algorithm, issuer; the version may be absent.
    for index in 0..4 {
        let (tag, _, rest) = element(fields)?;
        if index > 0 || tag == VERSION {
            fields = rest;
        }
    }
    let (tag, validity, _) = element(fields)?;
    let (_, _, end) = element(validity)?;
    let (kind, text, _) = element(end)?;
    (tag == SEQUENCE).then(|| time(kind, text)).flatten()
}

/// Splits off one element of DER: tag, content, rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The indefinite length is not DER, and longer ones are no certificates.
        0x80 | 0x85.. => return None,
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let add = |len: usize, byte: &u8| len << 8 | usize::from(*byte);
            (bytes.iter().fold(0, add), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(kind: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            // RFC 5280, section 4.1.2.5.1.
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || year < 1970 {
        return None;
    }
    let field = |index: usize| number(rest.get(2 * index..2 * index + 2)?);
    let days = days(year, field(0)?, field(1)?)?;
    Some(days * DAY_SECONDS + field(2)? * 3600 + field(3)? * 60 + field(4)?)
}

fn number(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let month = usize::try_from(month).ok()?.checked_sub(1)?;
    let before = BEFORE_MONTH.get(month)? + u64::from(is_leap && month > 1);
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    Some(years + before + day.checked_sub(1)?)
}

/// Returns the end of a JSON Web Token, in seconds since 1970; `None` if it is another kind of
/// token, or has none.
pub fn token_end(token: &str) -> Option<u64> {
    const CLAIMS: Keep = Keep::Fields(&[("exp", Keep::Leaf)]);
    let mut parts = token.trim().split('.');
    let claims = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(claims), Some(_), None) => claims,
        _ => return None,
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    json::number(&json::read(&claims[..], &CLAIMS).ok()?, "/exp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    /// `openssl req -x509 -newkey ed25519 -nodes -subj /CN=x -days 4000 -outform DER`, with the end
    /// of 2037 that `openssl x509 -enddate` prints.
    const UTC: &str = "\
        MIIBLDCB36ADAgECAhRhhbCDC6P+15byIhA9c4JJMgzJgzAFBgMrZXAwDDEKMAgGA1UEAwwBeDAeFw0yNjExMjYxOTMw\
        MzJaFw0zNzExMDgxOTMwMzJaMAwxCjAIBgNVBAMMAXgwKjAFBgMrZXADIQCyXVc6upsowjhqnURas4mkIIRajpIpRD3B\
        qwHvxrIKGKNTMFEwHQYDVR0OBBYEFLuW3ed0iYp33VqBsaQh1HibfasNMB8GA1UdIwQYMBaAFLuW3ed0iYp33VqBsaQh\
        1HibfasNMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EAiKW/DFKykgGBroeCJmq68P7jXDTRk0bKCAsAu3Gz8qQTGDbo\
        Gr4XrHKkwUoHHX7mK/oec5uMMHuWeMyzHEzMAQ==";
    const UTC_END: u64 = 2_141_321_432;
    /// The same with `-days 15000`, until 2067.
    const GENERALIZED: &str = "\
        MIIBLjCB4aADAgECAhQWJ2snbnFsE9TfQeAoKWy3ZkAxXTAFBgMrZXAwDDEKMAgGA1UEAwwBeDAgFw0yNjExMjYxOTMw\
        MzJaGA8yMDY3MTIyMTE5MzAzMlowDDEKMAgGA1UEAwwBeDAqMAUGAytlcAMhANH/RxVw4HgvcaCP823C4b7Ols87192A\
        6e7v/o1MkaqNo1MwUTAdBgNVHQ4EFgQUy5FDXscXvl4BATUhS10ZxjXdYNcwHwYDVR0jBBgwFoAUy5FDXscXvl4BATUh\
        S10ZxjXdYNcwDwYDVR0TAQH/BAUwAwEB/zAFBgMrZXADQQA5IIQm3eH6Im9/MGaGFhyW/xvxx1uV4wxBG4bY8ONerXbu\
        IwY8l7ArOBvjqPDNrK3LdMbPMu6PoneN6ZJ47eED";
    const GENERALIZED_END: u64 = 3_091_721_432;

    #[test]
    fn the_end_of_a_certificate_is_read() {
        for (text, want) in [(UTC, UTC_END), (GENERALIZED, GENERALIZED_END)] {
            let der = STANDARD.decode(text).unwrap();
            assert_eq!(certificate_end(&der), Some(want));
            for len in 0..100 {
                assert_eq!(certificate_end(&der[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn dates_are_counted_as_the_calendar_does() {
        for (text, want) in [
            ("19700101000000Z", Some(0)),
            ("20000229120000Z", Some(951_825_600)),
            ("20000301000000Z", Some(951_868_800)),
            ("21000301000000Z", Some(4_107_542_400)),
            ("20241231235959Z", Some(1_735_689_599)),
            ("20241331000000Z", None),
            ("20240001000000Z", None),
            ("2024010100000Z", None),
            ("20240101000000", None),
            ("2024+10100000Z", None),
        ] {
            assert_eq!(time(GENERALIZED_TIME, text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_token_is_read() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            token_end(&token(r#"{"exp":1735000000,"sub":"x"}"#)),
            Some(1_735_000_000)
        );
        for other in [
            token("{}"),
            token("x"),
            "abcdef.0123456789abcdef".to_owned(),
            String::new(),
        ] {
            assert_eq!(token_end(&other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>, token: String) {
            let _ = certificate_end(&bytes);
            let _ = token_end(&token);
        }

        #[test]
        fn mutated_certificates_are_read_or_refused(at: prop::sample::Index, byte: u8) {
            let mut der = STANDARD.decode(UTC).unwrap();
            let at = at.index(der.len());
            der[at] = byte;
            let _ = certificate_end(&der);
        }
    }
}
