"""Several servers over one model store: which of them has which model, and passing requests on."""
