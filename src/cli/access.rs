//! Why this user cannot read a file or directory, and what would help.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{getegid, geteuid, getgroups};

use super::page::shown;
use crate::tail::discover::Found;
use crate::tail::{self, owner_matches_directory};

const READ: u32 = 0o4;
const ENTER: u32 = 0o1;

/// Who asks.
pub(super) struct User {
    id: u32,
    groups: Vec<u32>,
    /// A name where `/etc/passwd` has one; users from elsewhere are numbers.
    pub(super) name: String,
}

impl User {
    pub(super) fn current() -> Self {
        let id = geteuid().as_raw();
        let mut groups: Vec<u32> = getgroups()
            .unwrap_or_default()
            .iter()
            .map(|group| group.as_raw())
            .collect();
        groups.push(getegid().as_raw());
        Self {
            id,
            groups,
            name: name_of("/etc/passwd", id),
        }
    }

    /// Reads everything whatever its mode, which says nothing about the daemon's user.
    pub(super) fn is_root(&self) -> bool {
        self.id == 0
    }
}

/// The size of a file that the daemon would read; otherwise why it would not.
pub(super) fn size(found: &Found) -> io::Result<u64> {
    let tail::Opened { status, path, .. } = tail::open(found)?;
    if status.links > 1 && !owner_matches_directory(&path, &status) {
        return Err(io::Error::other(
            "not read: a hard link to a file of another owner than its directory's",
        ));
    }
    Ok(status.size)
}

/// What `error` means for `user`, who wanted to read the file at `path`.
pub(super) fn why_not(path: &Path, error: &io::Error, user: &User) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => of_file(path, user),
        _ => error.to_string(),
    }
}

/// What keeps `user` from reading the file at `path`: the directory that cannot be entered, or the
/// file itself.
pub(super) fn of_file(path: &Path, user: &User) -> String {
    blocked_above(path, user).unwrap_or_else(|| explain(path, READ, "read", user))
}

/// What keeps `user` from looking into the directory at `path`.
pub(super) fn of_directory(path: &Path, user: &User) -> String {
    blocked_above(path, user).unwrap_or_else(|| explain(path, READ | ENTER, "read", user))
}

fn blocked_above(path: &Path, user: &User) -> Option<String> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let blocked = above.into_iter().find(|directory| {
        let entered = rustix::fs::accessat(CWD, *directory, Access::EXEC_OK, AtFlags::EACCESS);
        entered == Err(rustix::io::Errno::ACCESS)
    })?;
    let why = explain(blocked, ENTER, "entered", user);
    Some(format!("directory {} {why}", shown(blocked)))
}

/// `wanted` are bits as for others; `done` is what the group may do with them.
fn explain(path: &Path, wanted: u32, done: &str, user: &User) -> String {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return error.to_string(),
    };
    let listed = has_access_list(path);
    let what = listing(&metadata, listed);
    let letters: String = [(READ, 'r'), (ENTER, 'x')]
        .iter()
        .filter(|(bit, _)| wanted & bit != 0)
        .map(|(_, letter)| *letter)
        .collect();
    let mode = metadata.mode();
    let group = name_of("/etc/group", metadata.gid());
    let (name, at) = (&user.name, shown(path));
    let has = |shift: u32| (mode >> shift) & wanted == wanted;
    let list = if metadata.is_dir() {
        format!("setfacl -m u:{name}:{letters} {at}")
    } else {
        let directory = path.parent().map(shown).unwrap_or_default();
        format!(
            "setfacl -m u:{name}:{letters} {at}, and for files to come setfacl -d -m u:{name}:{letters} {directory}"
        )
    };
    let advice = if listed {
        format!("its access control list (getfacl {at}) leaves this user out: {list}")
    } else if metadata.uid() == user.id {
        format!("its owner may not: chmod u+{letters} {at}")
    } else if user.groups.contains(&metadata.gid()) {
        if has(3) {
            "its mode allows it: AppArmor, SELinux or the like forbids it".to_owned()
        } else {
            format!("group {group}, in which this user is, may not: chmod g+{letters} {at}")
        }
    } else if has(0) {
        "its mode allows it: AppArmor, SELinux or the like forbids it".to_owned()
    } else if has(3) && metadata.gid() != 0 {
        let verb = if done == "read" { "readable" } else { "open" };
        format!(
            "{verb} by group {group}: add the user to it (usermod -aG {group} {name}), then restart fantail"
        )
    } else {
        format!("no group to join would help: {list}")
    };
    format!("{what}: {advice}")
}

/// As `ls -l` begins a line: `-rw-r----- root adm`.
fn listing(metadata: &Metadata, listed: bool) -> String {
    let mode = metadata.mode();
    let mut text = String::from(if metadata.is_dir() { "d" } else { "-" });
    for shift in [6, 3, 0] {
        for (bit, letter) in [(0o4, 'r'), (0o2, 'w'), (0o1, 'x')] {
            let set = (mode >> shift) & bit != 0;
            text.push(if set { letter } else { '-' });
        }
    }
    if listed {
        text.push('+');
    }
    let owner = name_of("/etc/passwd", metadata.uid());
    let group = name_of("/etc/group", metadata.gid());
    format!("{text} {owner} {group}")
}

fn has_access_list(path: &Path) -> bool {
    let mut value = [0_u8; 4096];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut value).is_ok()
}

/// The name that a file in the form of passwd(5) or group(5) has for a number.
fn name_of(file: &str, id: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let id = id.to_string();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn somebody() -> User {
        User {
            id: 4_000_000,
            groups: vec![4_000_000],
            name: "somebody".to_owned(),
        }
    }

    #[test]
    fn the_advice_follows_from_owner_group_and_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.log");
        fs::write(&path, "x\n").expect("written");
        let with = |mode: u32, user: &User| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            explain(&path, READ, "read", user)
        };
        let metadata = fs::metadata(&path).expect("there");
        let mut user = somebody();
        let told = with(0o600, &user);
        assert!(told.contains("setfacl -m u:somebody:r "), "{told}");
        assert!(told.starts_with("-rw------- "), "{told}");
        let told = with(0o644, &user);
        assert!(told.contains("SELinux"), "{told}");
        user.groups.push(metadata.gid());
        let told = with(0o600, &user);
        assert!(told.contains("chmod g+r"), "{told}");
        user.id = metadata.uid();
        let told = with(0o040, &user);
        assert!(told.contains("chmod u+r"), "{told}");
    }
}
