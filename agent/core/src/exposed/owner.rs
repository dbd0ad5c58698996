//! Units, containers and pods, by the control groups of their processes.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Kind of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// A unit of systemd.
    Unit,
    /// A container.
    Container,
    /// A pod of Kubernetes.
    Pod,
}

/// Unit, container or pod of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Owner {
    /// Kind.
    pub kind: OwnerKind,
    /// Name of the unit, start of the container's id, or UID of the pod.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OwnerKind::Unit => "unit",
            OwnerKind::Container => "container",
            OwnerKind::Pod => "pod",
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// Finds the owner in a path of a control group (cgroups(7)). Runtimes name a group after the
/// container's id, and the kubelet the one around it after the pod's UID.
pub fn owner(path: &str) -> Option<Owner> {
    let groups: Vec<&str> = path.split('/').collect();
    let of = |kind, name: &str| {
        Some(Owner {
            kind,
            name: name.to_owned(),
        })
    };
    let uid = |group: &&str| {
        let name = group.trim_end_matches(".slice");
        let (before, uid) = name.rsplit_once("pod")?;
        let is_uid = uid.len() == 36
            && uid
                .chars()
                .all(|c| c.is_ascii_hexdigit() || "-_".contains(c));
        let is_pod = is_uid && (before.is_empty() || before.ends_with('-'));
        is_pod.then(|| uid.replace('_', "-"))
    };
    if let Some(uid) = groups.iter().rev().find_map(uid) {
        return of(OwnerKind::Pod, &uid);
    }
    let id = |group: &&str| {
        let name = group.trim_end_matches(".scope");
        let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
        let is_id = id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit());
        is_id.then(|| id.get(..12).unwrap_or_default().to_owned())
    };
    if let Some(id) = groups.iter().rev().find_map(id) {
        return of(OwnerKind::Container, &id);
    }
    let is_unit = |group: &&&str| group.ends_with(".service") || group.ends_with(".socket");
    let unit = groups.iter().rev().find(is_unit)?;
    of(OwnerKind::Unit, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_their_unit_container_or_pod() {
        let id = "0123456789ab".to_owned() + &"c".repeat(52);
        let uid = "b6ef1d3a-0f2c-4e3b-9a57-0a1b2c3d4e5f";
        let under = uid.replace('-', "_");
        for (path, wanted) in [
            ("/system.slice/ssh.service".to_owned(), "unit ssh.service"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service".to_owned(),
                "unit web.service",
            ),
            (
                format!("/system.slice/docker-{id}.scope"),
                "container 0123456789ab",
            ),
            (format!("/docker/{id}"), "container 0123456789ab"),
            (
                format!("/machine.slice/libpod-{id}.scope/container"),
                "container 0123456789ab",
            ),
            (
                format!("/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{id}.scope"),
                "pod b6ef1d3a-0f2c-4e3b-9a57-0a1b2c3d4e5f",
            ),
            (
                format!("/kubepods/besteffort/pod{uid}/{id}"),
                "pod b6ef1d3a-0f2c-4e3b-9a57-0a1b2c3d4e5f",
            ),
            (
                "/system.slice/podman.service".to_owned(),
                "unit podman.service",
            ),
            ("/".to_owned(), ""),
            ("/user.slice/user-1000.slice/session-3.scope".to_owned(), ""),
        ] {
            let found = owner(&path).map_or_else(String::new, |owner| owner.to_string());
            assert_eq!(found, wanted, "{path}");
        }
    }
}
