"""What memories are worth to an answer: the likelihood of the right one, without a judge.

A question's gold answer is teacher-forced behind the same prompt in every condition: without memories, with others of
the same cube, with the evidence, with all of the history, and with what search finds, as text and as KV. The gain over
no memory, in nats a token, says what memories bring; the share of text's gain that a way of injecting them keeps says
whether it gives the same answers. Likelihood is continuous, so a hundred questions tell ways apart that differ in none
of a small model's greedy answers.
"""
