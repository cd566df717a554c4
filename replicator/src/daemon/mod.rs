//! The daemon: joins the edges around the core.
