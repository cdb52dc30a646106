"""Users: made over HTTP; creating one enqueues the job that welcomes them."""
