//! Launches to something that is replayed: a graph of all of them.

use std::ops::Range;
use std::sync::Arc;

use zinc_backend::DeviceError;

use crate::driver::{Context, DriverError, Graph, Stream};
use crate::launch::Launch;
use crate::lower::Lowered;
use crate::memory::refused;
use crate::pipeline::{Pipeline, Ready};

/// Launches with their functions, in order.
pub(crate) struct Recording {
    pub launches: Vec<(Launch, Ready)>,
    /// Nodes whose launches belong together, as [`Lowered::spans`].
    pub spans: Vec<Range<usize>>,
    pub graph: Graph,
}

impl Recording {
    /// Looks up the kernels and records the launches.
    pub(crate) fn new(
        context: &Arc<Context>,
        device: &str,
        pipeline: &Pipeline,
        lowered: Lowered,
    ) -> Result<Recording, DeviceError> {
        let with_function = |launch: Launch| {
            let function = pipeline.function(&launch)?;
            Ok((launch, function))
        };
        let launches = lowered.launches.into_iter().map(with_function);
        let launches = launches.collect::<Result<Vec<_>, DeviceError>>()?;
        let record = |stream: &Stream<'_>| {
            let launch = |(launch, function): &(Launch, Ready)| {
                stream.launch(function, &launch.shape(), &launch.params)
            };
            launches.iter().try_for_each(launch)
        };
        let graph = context.record::<DriverError>(record);
        let graph = graph.map_err(|error| refused(device, "a recorded step", &error))?;
        Ok(Recording { launches, spans: lowered.spans, graph })
    }
}
