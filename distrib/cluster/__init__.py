"""Ray: where training and evaluation are spread over processes and machines. The only room that knows Ray."""
