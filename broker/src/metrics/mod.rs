//! Every metric of the broker, in one catalogue, with held handles for hot paths.
