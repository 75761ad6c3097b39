"""Reading text: words, names, dates, states, remarks, documents."""
