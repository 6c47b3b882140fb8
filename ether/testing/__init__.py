"""What ether tests itself with, for users' own tests: contract suites to subclass. Never imported at run time."""
