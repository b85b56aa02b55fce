//! Will it fit: the estimate against a hub that serves true configs and headers, from the command line and over HTTP.
