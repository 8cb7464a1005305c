//! `get`.

mod print;
mod watch;

use clap::Args;
use margay_model::any::AnyResource;
use margay_model::asn::Asn;
use margay_model::defaults::DEFAULT_NAMESPACE;
use margay_model::kind::{Kind, ResourceKey};
use margay_policy::selector::Selector;

use crate::cli::Which;
use crate::context::Context;
use crate::failure::{Failure, Fatal};
use crate::files;
use crate::labels;
use crate::output::Output;
use crate::verbs::{Named, fatal};
use print::Printer;

pub(crate) const HELP: &str = "\
Examples:
  margayctl get ippools -o wide
  margayctl get bgppeers rack1-tor -o yaml
  margayctl get networkpolicies -A -l 'app=web,!old'
  margayctl get workloadendpoints -n production --watch
  margayctl get pools -o custom-columns=NAME,SIZE:.spec.blockSize
  margayctl get nodes -o jsonpath='{range .items[*]}{.metadata.name}{\"\\n\"}{end}'
  margayctl get gnp -o go-template='{{range .items}}{{.metadata.name}} {{len .spec.ingress}}{{\"\\n\"}}{{end}}'

-o takes ps, wide, yaml, json, name, custom-columns=, jsonpath= and go-template=; the last three also
with -file before the = and then the name of a file. A column is HEADING:PATH, or the name of one that
the kind's table has. Templates get the list, or the resource if one is named.

-l looks at the labels that the resources carry themselves (margayctl selector list knows inherited
ones too), in the grammar of policies or as app=web,tier!=db,env in (a, b),!old.

--watch goes on until it is interrupted, also over restarts of the datastore. Tables have a column
EVENT; JSON is one object a line; --output-watch-events puts it into {\"type\", \"object\"}.";

/// What to show, and how.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Which resources.
    #[command(flatten)]
    which: Which,
    /// Of all namespaces
    #[arg(short = 'A', short_alias = 'a', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only those with such labels
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = labels::parse)]
    selector: Option<Selector>,
    /// Also show changes, as they happen
    #[arg(short, long, conflicts_with = "file")]
    watch: bool,
    /// Show changes only
    #[arg(long, conflicts_with = "file")]
    watch_only: bool,
    /// With --watch and JSON or YAML: say what happened to each
    #[arg(long)]
    output_watch_events: bool,
    /// Without what belongs to this cluster: uid, resourceVersion, creationTimestamp
    #[arg(long)]
    export: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "ps")]
    output: Output,
    /// Tables without headings
    #[arg(long)]
    no_headers: bool,
}

impl Get {
    /// All resources of a kind that has no namespaces.
    pub(crate) fn all(kind: Kind, output: Output) -> Self {
        Self {
            which: Which {
                kind: Some(kind.plural().to_owned()),
                names: Vec::new(),
                file: Vec::new(),
                recursive: false,
                skip_empty: false,
                namespace: None,
            },
            all_namespaces: false,
            selector: None,
            watch: false,
            watch_only: false,
            output_watch_events: false,
            export: false,
            output,
            no_headers: false,
        }
    }

    fn selects(&self, resource: &AnyResource) -> bool {
        let labels = &resource.metadata().labels;
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.matches(labels))
    }

    /// The namespace to look in; none for all.
    fn namespace(&self) -> Option<&str> {
        let named = self.which.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        (!self.all_namespaces).then_some(named)
    }
}

/// What was found, and how it was asked for.
struct Found {
    /// Of one kind each, in the order asked for.
    groups: Vec<(Kind, Vec<AnyResource>)>,
    /// The revision, when all of a kind were asked for.
    revision: Option<i64>,
    /// Whether exactly one resource was asked for by name.
    single: bool,
    /// Whether it may be of several namespaces.
    namespaces: bool,
}

/// Prints what is asked for and exists, and then what changes.
pub(crate) async fn get(args: &Get, context: &mut Context<'_>) -> Result<(), Fatal> {
    if args.watch || args.watch_only {
        return watch::watch(args, context).await;
    }
    let mut found = match args.which.file.as_slice() {
        [] => find_named(args, context).await?,
        _ => find_in_files(args, context).await?,
    };
    for (_, resources) in &mut found.groups {
        resources.retain(|resource| args.selects(resource));
    }
    let printer = Printer::new(args, &found, context).await?;
    let text = printer.all(found)?;
    context.streams.print(&text)
}

async fn find_named(args: &Get, context: &mut Context<'_>) -> Result<Found, Fatal> {
    let named = Named::of(&args.which)?;
    if named.names.is_empty() {
        let listed = context.client.list(named.kind, args.namespace()).await;
        let listed = listed.map_err(|error| fatal(&error))?;
        for error in &listed.damaged {
            context.streams.fail(&error.to_string())?;
        }
        return Ok(Found {
            groups: vec![(named.kind, in_order(named.kind, listed.resources))],
            revision: Some(listed.revision),
            single: false,
            namespaces: args.all_namespaces,
        });
    }
    let keys: Vec<_> = named.keys(args.which.namespace.as_deref()).collect();
    let single = keys.len() == 1;
    let groups = vec![(named.kind, fetch(keys, context).await?)];
    Ok(Found {
        groups,
        revision: None,
        single,
        namespaces: false,
    })
}

/// Tiers are shown in their own order, everything else by name.
fn in_order(kind: Kind, mut resources: Vec<AnyResource>) -> Vec<AnyResource> {
    if kind == Kind::Tier {
        let order = |resource: &AnyResource| match resource {
            AnyResource::Tier(tier) => tier.spec.order.unwrap_or(f64::INFINITY),
            _ => f64::INFINITY,
        };
        resources.sort_by(|a, b| order(a).total_cmp(&order(b)));
    }
    resources
}

async fn find_in_files(args: &Get, context: &mut Context<'_>) -> Result<Found, Fatal> {
    let (which, streams) = (&args.which, &mut context.streams);
    let mut keys: Vec<ResourceKey> = Vec::new();
    for source in files::read_which(which, streams.stdin)? {
        match source.result {
            Ok(resource) => keys.push(resource.key()),
            Err(errors) => {
                for error in errors {
                    streams.fail(&format!("{}: {error}", source.place))?;
                }
            }
        }
    }
    let single = keys.len() == 1;
    let mut groups: Vec<(Kind, Vec<AnyResource>)> = Vec::new();
    for resource in fetch(keys, context).await? {
        match groups.iter_mut().find(|(kind, _)| *kind == resource.kind()) {
            Some((_, group)) => group.push(resource),
            None => groups.push((resource.kind(), vec![resource])),
        }
    }
    Ok(Found {
        groups,
        revision: None,
        single,
        namespaces: true,
    })
}

async fn fetch(
    keys: Vec<ResourceKey>,
    context: &mut Context<'_>,
) -> Result<Vec<AnyResource>, Fatal> {
    let mut resources = Vec::new();
    for key in keys {
        match context.client.get(&key).await {
            Ok(Some(resource)) => resources.push(resource),
            Ok(None) => context.streams.fail_one(None, &key, &Failure::Missing)?,
            Err(failure) => context.streams.fail_one(None, &key, &failure)?,
        }
    }
    Ok(resources)
}

/// The AS of hosts that name none.
async fn cluster_asn(context: &Context<'_>) -> Result<Asn, Fatal> {
    let key = ResourceKey::global(Kind::BgpConfiguration, "default");
    match context.client.get(&key).await {
        Ok(Some(AnyResource::BgpConfiguration(config))) => Ok(config.spec.asn()),
        Err(Failure::Store(error)) => Err(fatal(&error)),
        _ => Ok(Asn::DEFAULT),
    }
}
