//! The members of KubeControllersConfiguration.

use super::{DURATION, MANY, NET, SELECTOR, TEXT, TOGGLE, U16};
use crate::kube_controllers_configuration::AssignIps;
use crate::schema::Shape::{Form, List, Object, Texts, Word};
use crate::schema::{Schema, Shape, forms};

const LOG_LEVEL: Shape = Word(&[
    "None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic",
]);

schema!(
    KUBE_CONTROLLERS_CONFIGURATION,
    [
        "logSeverityScreen": LOG_LEVEL,
        "healthChecks": TOGGLE,
        "etcdV3CompactionPeriod": DURATION,
        "prometheusMetricsPort": U16,
        "controllers": Object(&CONTROLLERS),
        "debugProfilePort": U16,
    ]
);
schema!(
    CONTROLLERS,
    [
        "node": Object(&NODE_CONTROLLER),
        "policy": Object(&CONTROLLER),
        "workloadEndpoint": Object(&CONTROLLER),
        "serviceAccount": Object(&CONTROLLER),
        "namespace": Object(&CONTROLLER),
        "loadBalancer": Object(&LOAD_BALANCER_CONTROLLER),
        "migration": Object(&MIGRATION_CONTROLLER),
    ]
);
schema!(CONTROLLER, ["reconcilerPeriod": DURATION]);
schema!(
    NODE_CONTROLLER,
    [
        "reconcilerPeriod": DURATION,
        "syncLabels": TOGGLE,
        "hostEndpoint": Object(&AUTO_HOST_ENDPOINT),
        "leakGracePeriod": DURATION,
    ]
);
schema!(
    AUTO_HOST_ENDPOINT,
    [
        "autoCreate": TOGGLE,
        "createDefaultHostEndpoint": TOGGLE,
        "templates": List(&Object(&TEMPLATE), MANY),
    ]
);
schema!(
    TEMPLATE,
    [
        "generateName": Form(&forms::NAME),
        "interfaceCIDRs": List(&NET, MANY),
        "interfacePattern": TEXT,
        "labels": Texts,
        "annotations": Texts,
        "nodeSelector": SELECTOR,
    ],
    required ["generateName"]
);
schema!(LOAD_BALANCER_CONTROLLER, ["assignIPs": Word(AssignIps::WORDS)]);
schema!(MIGRATION_CONTROLLER, ["policyNameMigrator": TOGGLE]);
