//! Errors of etcd, and what to do about them.

use peerwall_proto::etcd::{Failure, failure};

use super::login::Login;
use crate::error::{Error, Kind, Step};
use crate::http::Response;

/// Reads an answer with an error.
pub(super) fn refusal(login: &Login, response: Response<'_, '_>) -> Step<Refusal> {
    let status = response.status;
    let body = response.body.beginning()?;
    Ok(match failure(&body) {
        Some(failed) => Refusal {
            status,
            is_token_invalid: failed.is_token_invalid(),
            is_compacted: failed.is_compacted(),
            message: failed.message,
            code: failed.code,
        },
        None if status == 404 => Refusal {
            status,
            message: format!("{} has no JSON gateway of etcd's version 3 API", login.url),
            ..Refusal::of(0, String::new())
        },
        None => Refusal {
            status,
            ..Refusal::of(0, String::from_utf8_lossy(&body).into_owned())
        },
    })
}

/// An answer with an error.
pub(super) struct Refusal {
    /// HTTP status code; 0 within a watch.
    status: u16,
    /// Status code of gRPC.
    code: u64,
    message: String,
    pub(super) is_token_invalid: bool,
    is_compacted: bool,
}

/// gRPC's `PermissionDenied`.
const PERMISSION_DENIED: u64 = 7;

impl Refusal {
    pub(super) fn of(code: u64, message: String) -> Self {
        let failed = Failure { code, message };
        Self {
            status: 0,
            code,
            is_token_invalid: failed.is_token_invalid(),
            is_compacted: failed.is_compacted(),
            message: failed.message,
        }
    }

    pub(super) fn explain(self, login: &Login) -> Error {
        let (url, said) = (&login.url, self.message.as_str());
        let who = login.name();
        let is = |part: &str| said.contains(part);
        let is_denied =
            self.code == PERMISSION_DENIED || self.status == 403 || is("permission denied");
        let (kind, text) = if self.is_compacted || self.status == 404 {
            (Kind::NotFound, said.to_owned())
        } else if is("CommonName") {
            let remedy = "use a certificate without a CN, and `user` and `password`";
            (
                Kind::Unauthorized,
                format!(
                    "with RBAC, the JSON gateway refuses certificates that have a CN; {remedy}"
                ),
            )
        } else if login.user.is_none() && (is("user name is empty") || is_denied) {
            let remedy = "RBAC is enabled: set `user` and `password`";
            (Kind::Unauthorized, format!("{remedy} ({said})"))
        } else if is("invalid user ID or password") || self.is_token_invalid || self.status == 401 {
            (
                Kind::Unauthorized,
                format!("{who} is not accepted; correct or renew it: {said}"),
            )
        } else if is_denied {
            let remedy = format!(
                "etcdctl role grant-permission ROLE --prefix read {}/subnets/",
                login.prefix
            );
            (
                Kind::Forbidden,
                format!("{who} may not read the leases; grant it: {remedy}"),
            )
        } else if is("no leader") || is("timed out") {
            (
                Kind::Unreachable,
                format!("the members have no quorum: {said}"),
            )
        } else {
            match self.status {
                0 | 500..=599 => (Kind::Unreachable, said.to_owned()),
                status => (Kind::Protocol, format!("{status}: {said}")),
            }
        };
        Error::new(kind, text).at(&url.to_string())
    }
}
