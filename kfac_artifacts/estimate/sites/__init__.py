"""Sites: the places where parameters enter a network, and what each of them sees."""
