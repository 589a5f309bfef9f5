//! From what is there to what should be: the steps, in their order. Pure.
//!
//! Each decision is made on the state that the steps before it lead to, so that what is planned for a database that
//! does not exist and what is planned for one that somebody has tampered with is the same code. The process may die
//! between any two steps: the next plan starts from whatever is there then.

use std::collections::BTreeSet;

use super::desired::{Access, Desired, Identity, OtherLogin};
use super::lists;
use super::model::{DatabaseState, Grant, INVALID, Membership, Observed};
use super::names::{Names, TENANTS, is_role};
use super::ownership::{Stamp, State};
use super::step::{Step, membership, name_of};
use crate::postgres::scram::stands_for;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The database of that name is somebody else's; it is left as it is.
    NotOurs(String),
    /// A database that was there is gone. A new one in its place would hide that its data is lost.
    Missing(String),
}

/// What a database of the name that we want is to us.
enum Claim {
    Absent,
    /// What an interrupted DROP leaves.
    Invalid,
    /// Created, and not stamped yet: the process died in between.
    Unstamped,
    Stamped(Stamp),
    /// The stamp of an object of the same name. Two cannot be there at once, so that one is no more, even where the
    /// server was away when it went and nothing has been closed yet.
    Retained(Stamp),
    Foreign(&'static str),
}

fn claim(names: &Names, identity: &Identity, observed: &Observed) -> Claim {
    let Some(database) = observed.databases.get(&names.database) else { return Claim::Absent };
    let Some(stamp) = database.stamp() else {
        let bare = database.comment.is_none() && database.owner == observed.operator;
        return match () {
            () if bare && database.limit == INVALID => Claim::Invalid,
            () if bare && !database.open => Claim::Unstamped,
            () => Claim::Foreign("it does not carry the stamp of this suite"),
        };
    };
    let same_object = stamp.cluster == identity.cluster && stamp.object == identity.object;
    match () {
        () if stamp.cluster != identity.cluster => Claim::Foreign("it belongs to another cluster"),
        () if same_object && stamp.uid == identity.uid && database.limit == INVALID => Claim::Invalid,
        () if same_object && stamp.uid == identity.uid => Claim::Stamped(stamp),
        () if same_object && stamp.state.can_be_adopted() => Claim::Retained(stamp),
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
            "database {} does not exist any more: restore it under this name, or delete Database {namespace}/{name} to have an \
             empty one created",
            names.database
        )));
    }
    let before = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        Claim::Stamped(stamp) => stamp,
        Claim::Retained(stamp) => plan.adopt(desired, stamp),
        claim => plan.create(desired, &claim),
    };
    plan.keep_out(names, desired.access);
    plan.roles(desired);
    plan.database(desired);
    plan.settings(desired);
    let full = plan.contents(desired, &before);
    for login in plan.logins(desired) {
        plan.grant(&names.database, &login, &["CONNECT"]);
    }
    let extensions = before.extensions.unwrap_or_default().union(&desired.extensions).cloned().collect();
    let stamp = Stamp { extensions: Some(extensions), full, ..desired.identity.stamp(State::Active) };
    plan.stamp(names, &desired.identity, stamp);
    Ok(plan.steps)
}

/// The steps to a database that is kept, closed, for an object of the same name to find.
pub fn retain(names: &Names, identity: &Identity, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    if let Claim::Foreign(why) = claim {
        return Err(not_ours(names, why));
    }
    plan.close_login(names);
    let stamp = match claim {
        Claim::Unstamped => identity.stamp(State::Retained),
        Claim::Stamped(stamp) if stamp.state != State::Retained => Stamp { state: State::Retained, ..stamp },
        _ => return Ok(plan.steps),
    };
    plan.end_sessions(names);
    plan.stamp(names, identity, stamp);
    Ok(plan.steps)
}

/// The steps to a database that is put aside as `aside`.
pub fn archive(names: &Names, identity: &Identity, observed: &Observed, aside: String) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    let stamp = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        // What another object of this name retained is not this object's to put aside.
        Claim::Absent | Claim::Invalid | Claim::Retained(_) => return Ok(plan.steps),
        Claim::Unstamped => identity.stamp(State::Archived),
        Claim::Stamped(stamp) => Stamp { state: State::Archived, ..stamp },
    };
    let database = names.database.clone();
    plan.close_login(names);
    plan.end_sessions(names);
    plan.limit(&database, 0);
    plan.stamp(names, identity, stamp);
    plan.push(Step::Terminate { database: database.clone(), login: None });
    plan.push(Step::Rename { from: database, to: aside });
    Ok(plan.steps)
}

/// The steps to nothing. The logins are closed before anything that the server may refuse, and the stamp says what was ordered
/// before anything is destroyed: it outlives the DatabaseServer object and its list of pending removals.
pub fn delete(names: &Names, identity: &Identity, observed: &Observed) -> Result<Vec<Step>, Refusal> {
    let mut plan = Plan::new(names, observed);
    let claim = claim(names, identity, observed);
    let stamp = match claim {
        Claim::Foreign(why) => return Err(not_ours(names, why)),
        Claim::Retained(_) => return Ok(plan.steps),
        // PostgreSQL lets nothing but DROP work on an invalid database.
        Claim::Absent | Claim::Invalid => None,
        Claim::Unstamped => Some(identity.stamp(State::Deleting)),
        Claim::Stamped(ref stamp) => Some(Stamp { state: State::Deleting, ..stamp.clone() }),
    };
    plan.close_login(names);
    if !matches!(claim, Claim::Absent) {
        plan.end_sessions(names);
    }
    if let Some(stamp) = stamp {
        plan.stamp(names, identity, stamp);
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
    Refusal::NotOurs(format!("database {} is left as it is: {why}", names.database))
}

fn owned<T: Clone>((name, state): (&String, &T)) -> (String, T) {
    (name.clone(), state.clone())
}

/// The parameter that bounds the temporary files of a session.
pub const TEMPORARY_FILES: &str = "temp_file_limit";

/// What the owner role may do with the database itself.
fn owner_privileges(access: Access) -> &'static [&'static str] {
    match access {
        Access::Write => &["CONNECT", "CREATE", "TEMPORARY"],
        Access::Shrink | Access::Closed => &["CONNECT"],
    }
}

struct Plan {
    /// What there is once the steps so far are done.
    state: Observed,
    steps: Vec<Step>,
}

impl Plan {
    /// Of a whole server's databases only the one that is planned for.
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

    /// A database of ours with nothing in it, closed.
    fn create(&mut self, desired: &Desired, claim: &Claim) -> Stamp {
        let database = desired.names.database.clone();
        if matches!(claim, Claim::Invalid) {
            self.push(Step::DropDatabase { database: database.clone() });
        }
        if !matches!(claim, Claim::Unstamped) {
            self.push(Step::CreateDatabase { database, limit: desired.connection_limit });
        }
        let stamp = desired.identity.stamp(State::Active);
        self.stamp(&desired.names, &desired.identity, stamp.clone());
        stamp
    }

    /// What another object left becomes this one's before anything of it is opened: whoever deletes this one halfway closes,
    /// puts aside or drops what it has opened.
    fn adopt(&mut self, desired: &Desired, left: Stamp) -> Stamp {
        let mine = desired.identity.stamp(State::Active);
        let stamp = Stamp { extensions: left.extensions, frozen: left.frozen, full: left.full, ..mine };
        self.stamp(&desired.names, &desired.identity, stamp.clone());
        stamp
    }

    fn stamp(&mut self, names: &Names, identity: &Identity, stamp: Stamp) {
        if self.here(&names.database).stamp().as_ref() != Some(&stamp) {
            let (namespace, name) = (identity.namespace.clone(), identity.name.clone());
            self.push(Step::Stamp { database: names.database.clone(), stamp, namespace, name });
        }
    }

    /// Nobody but the owner role and the login: not PUBLIC, and no role of another database. What the platform team
    /// has given to roles of its own, for backups say, is its business.
    fn keep_out(&mut self, names: &Names, access: Access) {
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
            // One that is gone has taken its password with it: nothing is left to keep open.
            OtherLogin::Former if self.state.roles.contains_key(&names.other) => self.login(&names.other, None),
            OtherLogin::Former => {}
        }
        // Where nobody looks passwords up, nobody asks whose they are.
        let tenants = (!self.state.hidden).then_some((TENANTS, false));
        let groups: Vec<_> = [(names.owner.as_str(), true)].into_iter().chain(tenants).collect();
        for login in self.logins(desired) {
            self.memberships(&login, &groups);
        }
    }

    /// The logins that are to be as the spec says.
    fn logins(&self, desired: &Desired) -> Vec<String> {
        let names = &desired.names;
        let other = desired.other != OtherLogin::Closed && self.state.roles.contains_key(&names.other);
        [Some(&names.login), Some(&names.other).filter(|_| other)].into_iter().flatten().cloned().collect()
    }

    /// A role that logs in, with this verifier or else the one it has.
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

    /// Closes both logins, and ends their sessions.
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

    /// A role that nobody logs in as and that is in no group of ours.
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

    /// What the login has set for itself in this database goes, too: the spec is the one place to look.
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

    /// Whether writes are refused in it afterwards.
    fn contents(&mut self, desired: &Desired, before: &Stamp) -> bool {
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
            // Who is no superuser does not get in while they have all connections of the database.
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

    /// Ends what the two logins have open. Not in one transaction with anything: a lock that something else waits for must not
    /// keep a login open.
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
