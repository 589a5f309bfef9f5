//! Plans the steps from the observed to the desired state. Pure.
//!
//! Each decision is made on the state after the steps before it, so that the same code plans for a database that does not exist
//! and for one that was tampered with. The process may die between any two steps: the next plan starts from the state at that
//! time.

use std::collections::BTreeSet;

use super::desired::{Access, Desired, Identity, OtherLogin};
use super::lists;
use super::model::{DatabaseState, Grant, INVALID, Membership, Observed};
use super::names::{Names, TENANTS, is_role};
use super::ownership::{Ownership, State};
use super::step::{Step, membership, name_of};
use crate::postgres::scram::stands_for;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The database of that name belongs to another object; it must not be changed.
    NotOurs(String),
    /// The database existed and does not any more. A new one in its place would hide that its data is lost.
    Missing(String),
}

/// Who owns the database of the desired name.
enum Claim {
    Absent,
    /// Left by an interrupted DROP.
    Invalid,
    /// Created, and not marked yet: the process died in between.
    Unmarked,
    Ours(Ownership),
    /// Marked by an object of the same name. Two such objects cannot exist at once, so that one was deleted, even if the server was
    /// unreachable at the time and its logins are still open.
    Retained(Ownership),
    Foreign(&'static str),
}

fn claim(names: &Names, identity: &Identity, observed: &Observed) -> Claim {
    let Some(database) = observed.databases.get(&names.database) else { return Claim::Absent };
    let Some(ownership) = database.ownership() else {
        let bare = database.comment.is_none() && database.owner == observed.operator;
        return match () {
            () if bare && database.limit == INVALID => Claim::Invalid,
            () if bare && !database.open => Claim::Unmarked,
            () => Claim::Foreign("it has no ownership marker of Ahoi"),
        };
    };
    let same_object = ownership.cluster == identity.cluster && ownership.object == identity.object;
    match () {
        () if ownership.cluster != identity.cluster => Claim::Foreign("it belongs to another cluster"),
        () if same_object && ownership.uid == identity.uid && database.limit == INVALID => Claim::Invalid,
        () if same_object && ownership.uid == identity.uid => Claim::Ours(ownership),
        () if same_object && ownership.state.can_be_adopted() => Claim::Retained(ownership),
        () => Claim::Foreign("it belongs to another object"),
    }
}

/// The steps to a database in use.
pub fn open(desired: &Desired, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let names = &desired.names;
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, &desired.identity, observed);
    if desired.provisioned && matches!(claim, Claim::Absent | Claim::Invalid) {
        let Identity { namespace, name, .. } = &desired.identity;
        return Err(Refusal::Missing(format!(
            "database {} does not exist any more: restore it under this name, or delete Database {namespace}/{name} to get an \
             empty one",
            names.database
        )));
    }
    let before = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        Claim::Ours(ownership) => ownership,
        Claim::Retained(ownership) => plan.adopt(desired, ownership),
        claim => plan.create(desired, &claim),
    };
    plan.revoke_others(names, desired.access);
    plan.roles(desired);
    plan.database(desired);
    plan.settings(desired);
    let full = plan.contents(desired, &before);
    for login in plan.logins(desired) {
        plan.grant(&names.database, &login, &["CONNECT"]);
    }
    let extensions = before.extensions.unwrap_or_default().union(&desired.extensions).cloned().collect();
    let ownership = Ownership { extensions: Some(extensions), full, ..desired.identity.ownership(State::Active) };
    plan.mark(names, &desired.identity, ownership);
    Ok(plan.steps)
}

/// The steps to a retained database: its logins are closed, and an object of the same name adopts it.
pub fn retain(names: &Names, identity: &Identity, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    if let Claim::Foreign(why) = claim {
        return Err(not_ours(names, why));
    }
    plan.close_login(names);
    let ownership = match claim {
        Claim::Unmarked => identity.ownership(State::Retained),
        Claim::Ours(ownership) if ownership.state != State::Retained => {
            Ownership { state: State::Retained, ..ownership }
        }
        _ => return Ok(plan.steps),
    };
    plan.end_sessions(names);
    plan.mark(names, identity, ownership);
    Ok(plan.steps)
}

/// The steps to a database that is archived as `archived`.
pub fn archive(
    names: &Names,
    identity: &Identity,
    observed: &Observed,
    archived: String,
) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    let ownership = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        // Data that another object of this name retained is not this object's to archive.
        Claim::Absent | Claim::Invalid | Claim::Retained(_) => return Ok(plan.steps),
        Claim::Unmarked => identity.ownership(State::Archived),
        Claim::Ours(ownership) => Ownership { state: State::Archived, ..ownership },
    };
    let database = names.database.clone();
    plan.close_login(names);
    plan.end_sessions(names);
    plan.limit(&database, 0);
    plan.mark(names, identity, ownership);
    plan.push(Step::Terminate { database: database.clone(), login: None });
    plan.push(Step::Rename { from: database, to: archived });
    Ok(plan.steps)
}

/// The steps that drop a database and its roles. The logins are closed before any step that the server may refuse, and the
/// ownership marker records the deletion before anything is dropped: it outlives the DatabaseServer and its pending removals.
pub fn delete(names: &Names, identity: &Identity, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    let ownership = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        Claim::Retained(_) => return Ok(plan.steps),
        // Only DROP works on an invalid database.
        Claim::Absent | Claim::Invalid => None,
        Claim::Unmarked => Some(identity.ownership(State::Deleting)),
        Claim::Ours(ref ownership) => Some(Ownership { state: State::Deleting, ..ownership.clone() }),
    };
    plan.close_login(names);
    if !matches!(claim, Claim::Absent) {
        plan.end_sessions(names);
    }
    if let Some(ownership) = ownership {
        plan.mark(names, identity, ownership);
    }
    let database = names.database.clone();
    if !matches!(claim, Claim::Absent) {
        plan.push(Step::DropDatabase { database: database.clone() });
    }
    plan.push(Step::Forget { database });
    for role in [&names.login, &names.other, &names.frozen, &names.owner] {
        if plan.state.roles.contains_key(role) {
            plan.push(Step::DropRole { role: role.clone() });
        }
    }
    Ok(plan.steps)
}

/// Whether a database in use is not as desired.
pub fn differs(desired: &Desired, observed: &Observed) -> bool {
    open(desired, observed).map_or(true, |steps| !steps.is_empty())
}

fn not_ours(names: &Names, why: &str) -> Refusal {
    Refusal::NotOurs(format!("database {} was not changed: {why}", names.database))
}

fn owned<T: Clone>((name, state): (&String, &T)) -> (String, T) {
    (name.clone(), state.clone())
}

/// The parameter that limits the temporary files of a session.
pub const TEMPORARY_FILES: &str = "temp_file_limit";

/// Privileges of the owner role on the database.
fn owner_privileges(access: Access) -> &'static [&'static str] {
    match access {
        Access::Write => &["CONNECT", "CREATE", "TEMPORARY"],
        Access::Shrink | Access::Closed => &["CONNECT"],
    }
}

struct Plan {
    /// State after the steps so far.
    state: Observed,
    steps: Vec<Step>,
}

impl Plan {
    /// Starts from the part of the observed state that concerns one database.
    fn new(names: &Names, observed: &Observed) -> Self {
        let roles = [&names.owner, &names.login, &names.other, &names.frozen];
        let state = Observed {
            version: observed.version,
            operator: observed.operator.clone(),
            hidden: observed.hidden,
            limits_temporary_files: observed.limits_temporary_files,
            databases: observed.databases.get_key_value(&names.database).into_iter().map(owned).collect(),
            roles: roles.into_iter().filter_map(|role| observed.roles.get_key_value(role)).map(owned).collect(),
        };
        Plan { state, steps: Vec::new() }
    }

    fn push(&mut self, step: Step) {
        step.apply(&mut self.state);
        self.steps.push(step);
    }

    fn here(&self, database: &str) -> DatabaseState {
        self.state.databases.get(database).cloned().unwrap_or_default()
    }

    /// Creates an empty database that accepts no connections.
    fn create(&mut self, desired: &Desired, claim: &Claim) -> Ownership {
        let database = desired.names.database.clone();
        if matches!(claim, Claim::Invalid) {
            self.push(Step::DropDatabase { database: database.clone() });
        }
        if !matches!(claim, Claim::Unmarked) {
            self.push(Step::CreateDatabase { database, limit: desired.connection_limit });
        }
        let ownership = desired.identity.ownership(State::Active);
        self.mark(&desired.names, &desired.identity, ownership.clone());
        ownership
    }

    /// Marks the database of a deleted object as this object's before anything is opened: a deletion of this object in between then
    /// closes, archives or drops it.
    fn adopt(&mut self, desired: &Desired, left: Ownership) -> Ownership {
        let mine = desired.identity.ownership(State::Active);
        let ownership = Ownership { extensions: left.extensions, frozen: left.frozen, full: left.full, ..mine };
        self.mark(&desired.names, &desired.identity, ownership.clone());
        ownership
    }

    fn mark(&mut self, names: &Names, identity: &Identity, ownership: Ownership) {
        if self.here(&names.database).ownership().as_ref() != Some(&ownership) {
            let (namespace, name) = (identity.namespace.clone(), identity.name.clone());
            self.push(Step::Mark { database: names.database.clone(), ownership, namespace, name });
        }
    }

    /// Revokes what PUBLIC and the roles of other databases may do. Grants of administrators to their own roles, for example for
    /// backups, stay.
    fn revoke_others(&mut self, names: &Names, access: Access) {
        let state = self.here(&names.database);
        let privileges = owner_privileges(access);
        let wanted = |grant: &Grant| {
            !grant.grantable
                && (grant.grantee == names.owner && privileges.contains(&grant.privilege.as_str())
                    || (grant.grantee == names.login || grant.grantee == names.other) && grant.privilege == "CONNECT")
        };
        let outsiders: BTreeSet<_> = state
            .grants
            .iter()
            .filter(|grant| grant.grantee.is_empty() || is_role(&grant.grantee))
            .filter(|grant| !wanted(grant))
            .map(|grant| grant.grantee.clone())
            .collect();
        for grantee in outsiders {
            self.push(Step::Revoke { database: names.database.clone(), grantee });
        }
        if is_role(&state.owner) {
            self.push(Step::Reown { database: names.database.clone() });
        }
    }

    fn roles(&mut self, desired: &Desired) {
        let names = &desired.names;
        self.group(&names.owner);
        if self.state.roles.contains_key(&names.frozen) {
            self.group(&names.frozen);
        }
        if desired.access == Access::Closed {
            self.shut(names);
        } else {
            self.login(&names.login, Some(&desired.verifier));
        }
        match desired.other {
            _ if desired.access == Access::Closed => {}
            OtherLogin::Closed => self.close(&names.other),
            // The password of a dropped login is lost: it cannot be opened again.
            OtherLogin::Former if self.state.roles.contains_key(&names.other) => self.login(&names.other, None),
            OtherLogin::Former => {}
        }
        // The group serves the lookup of passwords, which needs verifiers that can be read.
        let tenants = (!self.state.hidden).then_some((TENANTS, false));
        let groups: Vec<_> = [(names.owner.as_str(), true)].into_iter().chain(tenants).collect();
        for login in self.logins(desired) {
            self.memberships(&login, &groups);
        }
    }

    /// The logins that must be as desired.
    fn logins(&self, desired: &Desired) -> Vec<String> {
        let names = &desired.names;
        let other = desired.other != OtherLogin::Closed && self.state.roles.contains_key(&names.other);
        [Some(&names.login), Some(&names.other).filter(|_| other)].into_iter().flatten().cloned().collect()
    }

    /// Opens a login, with this verifier or else with its present one.
    fn login(&mut self, role: &str, verifier: Option<&String>) {
        self.role(role);
        let found = self.state.roles.get(role).cloned().unwrap_or_default();
        let right = verifier.is_none_or(|verifier| stands_for(found.verifier.as_deref(), verifier));
        if found.login && right && !found.expires && found.limit == -1 {
            return;
        }
        let role = role.to_owned();
        let Some(verifier) = verifier.cloned() else { return self.push(Step::Reopen { role }) };
        self.push(Step::Login { role: role.clone(), verifier: verifier.clone() });
        if self.state.hidden {
            self.push(Step::Note { role, verifier });
        }
    }

    /// Closes both logins and ends their sessions.
    fn shut(&mut self, names: &Names) {
        self.role(&names.login);
        for login in [&names.login, &names.other] {
            if self.state.roles.get(login).is_some_and(|role| role.login) {
                self.close(login);
                self.push(Step::Terminate { database: names.database.clone(), login: Some(login.clone()) });
            }
        }
    }

    fn close(&mut self, login: &str) {
        if self.state.roles.get(login).is_some_and(|role| role.login) {
            self.push(Step::NoLogin { role: login.to_owned() });
        }
    }

    /// Makes a role unable to log in, and removes it from all groups of Ahoi.
    fn group(&mut self, role: &str) {
        self.role(role);
        if self.state.roles.get(role).is_some_and(|state| state.login) {
            self.push(Step::NoLogin { role: role.to_owned() });
        }
        self.memberships(role, &[]);
    }

    fn role(&mut self, role: &str) {
        match self.state.roles.get(role) {
            None => self.push(Step::CreateRole { role: role.to_owned() }),
            Some(state) if state.powers => self.push(Step::Disempower { role: role.to_owned() }),
            Some(_) => {}
        }
    }

    fn memberships(&mut self, member: &str, wanted: &[(&str, bool)]) {
        let version = self.state.version;
        let is_wanted = |group: &str, found: Membership| {
            wanted.iter().any(|(name, uses)| *name == group && membership(version, *uses) == found)
        };
        let found = self.state.roles.get(member).map(|role| role.member_of.clone()).unwrap_or_default();
        for (group, _) in found.iter().filter(|(group, found)| is_role(group) && !is_wanted(group, **found)) {
            self.push(Step::Leave { group: group.clone(), member: member.to_owned() });
        }
        for (group, uses) in wanted {
            if found.get(*group).is_none_or(|found| !is_wanted(group, *found)) {
                let (group, member) = ((*group).to_owned(), member.to_owned());
                self.push(Step::Join { group, member, membership: membership(version, *uses) });
            }
        }
    }

    fn database(&mut self, desired: &Desired) {
        let names = &desired.names;
        self.grant(&names.database, &names.owner, owner_privileges(desired.access));
        self.limit(&names.database, desired.connection_limit);
        if !self.here(&names.database).open {
            self.push(Step::Open { database: names.database.clone() });
        }
    }

    fn limit(&mut self, database: &str, limit: i32) {
        if self.here(database).limit != limit {
            self.push(Step::Limit { database: database.to_owned(), limit });
        }
    }

    fn grant(&mut self, database: &str, grantee: &str, privileges: &[&'static str]) {
        let held = self.here(database).grants;
        let missing = |privilege: &&&str| !held.contains(&Grant::new(grantee, privilege));
        let privileges: Vec<_> = privileges.iter().filter(missing).copied().collect();
        if !privileges.is_empty() {
            let (database, grantee) = (database.to_owned(), grantee.to_owned());
            self.push(Step::Grant { database, grantee, privileges });
        }
    }

    /// Settings that a login made for itself in this database are reset: only the spec defines them.
    fn settings(&mut self, desired: &Desired) {
        for login in self.logins(desired) {
            self.settings_of(&login, desired);
        }
    }

    fn settings_of(&mut self, login: &str, desired: &Desired) {
        let names = &desired.names;
        let mut wanted = desired.parameters.clone();
        wanted.insert("role".to_owned(), names.owner.clone());
        if self.state.limits_temporary_files {
            let limit = || format!("{}kB", desired.temporary_kilobytes);
            wanted.entry(TEMPORARY_FILES.to_owned()).or_insert_with(limit);
        }
        let (login, database) = (login.to_owned(), names.database.clone());
        let settings = self.state.roles.get(&login).and_then(|role| role.settings.get(&database));
        let found = settings.cloned().unwrap_or_default();
        for setting in found.iter().filter(|setting| !wanted.contains_key(name_of(setting))) {
            let parameter = name_of(setting).to_owned();
            self.push(Step::Reset { login: login.clone(), database: database.clone(), parameter });
        }
        for (parameter, value) in wanted {
            if !found.iter().any(|setting| lists::is_set(setting, &parameter, &value)) {
                self.push(Step::Set { login: login.clone(), database: database.clone(), parameter, value });
            }
        }
    }

    /// Plans the steps inside of the database. The result is whether writes are refused afterwards.
    fn contents(&mut self, desired: &Desired, before: &Ownership) -> bool {
        let owner = &desired.names.owner;
        if before.extensions.is_none() {
            self.push(Step::PublicSchema { owner: owner.clone() });
        }
        let mut made = before.extensions.clone().unwrap_or_default();
        let lost = self.here(&desired.names.database).lost_extensions;
        made.retain(|extension| !lost.contains(extension));
        for extension in desired.extensions.difference(&made) {
            self.push(Step::Extension { extension: extension.clone(), owner: owner.clone() });
        }
        let names = || desired.names.clone();
        if before.frozen || before.full && desired.access == Access::Write {
            self.push(Step::AllowWrites { names: names() });
            self.push(Step::Thaw);
        }
        if desired.access == Access::Shrink && !before.full {
            // Without a superuser, no connection is free while the customer uses all of them.
            for login in self.logins(desired) {
                self.push(Step::Terminate { database: desired.names.database.clone(), login: Some(login) });
            }
            self.push(Step::Seal { names: names() });
            self.push(Step::RefuseWrites { names: names() });
        }
        match desired.access {
            Access::Write => false,
            Access::Shrink => true,
            Access::Closed => before.full,
        }
    }

    /// Ends the sessions of both logins. Not in one transaction with other steps: a lock that one of these waits for must not keep a
    /// login open.
    fn end_sessions(&mut self, names: &Names) {
        for login in [&names.login, &names.other] {
            self.push(Step::Terminate { database: names.database.clone(), login: Some(login.clone()) });
        }
    }

    fn close_login(&mut self, names: &Names) {
        self.close(&names.login);
        self.close(&names.other);
    }
}

#[cfg(test)]
mod tests;
