# Makes cases.csv and values.json beside this file: what R says about data with ties, clusters and few cases.
#   Rscript tests/golden/r/evaluation.R       (Debian: r-base-core r-cran-{proc,psych,vcd,epir,rms,survey,jsonlite})
# The tests read both files; R is not needed to run them.
suppressMessages({library(pROC); library(psych); library(vcd); library(epiR); library(rms); library(survey)
  library(jsonlite)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
set.seed(20250213)

n <- 240
patient <- sample(1:160, n, replace = TRUE)
frail <- rnorm(160)[patient]
y <- as.integer(frail + rnorm(n) > 0.7)
squash <- function(x) round(plogis(x), 2)                    # two decimals: many ties
a <- pmin(pmax(squash(1.6 * y - 0.8 + 0.5 * frail + rnorm(n)), 0.01), 0.99)
b <- pmin(pmax(squash(1.0 * y - 0.5 + 0.5 * frail + rnorm(n)), 0.01), 0.99)
answers <- c("DF", "VF", "SF", "UF", "N")
truth <- sample(answers, n, replace = TRUE, prob = c(.2, .1, .15, .15, .4))
read_as <- function(right) ifelse(runif(n) < right, truth, sample(answers, n, replace = TRUE))
r1 <- read_as(.75); r2 <- read_as(.65); r3 <- read_as(.55)
before <- round(exp(rnorm(n, 3.2, .4)), 1)
after <- round(before * exp(rnorm(n, -.05, .3)), 1)
cases <- data.frame(patient, y, a, b, truth, r1, r2, r3, before, after)
write.csv(cases, file.path(here, "cases.csv"), row.names = FALSE, quote = FALSE)

out <- list(versions = list(R = paste(R.version$major, R.version$minor, sep = ".")))
for (p in c("pROC", "psych", "vcd", "epiR", "rms", "survey")) out$versions[[p]] <- as.character(packageVersion(p))

# areas: pROC
area_of <- function(y, s) {
  curve <- roc(y, s, direction = "<", levels = c(0, 1), quiet = TRUE)
  limits <- as.numeric(ci.auc(curve, method = "delong"))
  list(auc = limits[2], low = limits[1], high = limits[3], variance = var(curve, method = "delong"))
}
ra <- roc(y, a, direction = "<", levels = c(0, 1), quiet = TRUE)
rb <- roc(y, b, direction = "<", levels = c(0, 1), quiet = TRUE)
paired <- roc.test(ra, rb, method = "delong", paired = TRUE)
few <- c(which(y == 1)[1:9], which(y == 0)[1:14])
out$delong <- list(a = area_of(y, a), b = area_of(y, b), few = area_of(y[few], a[few]))
out$paired <- list(z = unname(paired$statistic), p = paired$p.value,
                   low = paired$conf.int[1], high = paired$conf.int[2], covariance = cov(ra, rb))
out$mann_whitney <- unname(wilcox.test(a[y == 1], a[y == 0], exact = FALSE)$statistic) / (sum(y) * sum(1 - y))

# clustered area, written out after Obuchowski, Biometrics 1997;53:567-78, pair by pair
clustered <- function(y, s, who) {
  psi <- outer(s[y == 1], s[y == 0], function(p, q) (p > q) + (p == q) / 2)
  theta <- mean(psi); M <- sum(y); N <- sum(1 - y)
  v10 <- tapply(rowMeans(psi) - theta, who[y == 1], sum); v01 <- tapply(colMeans(psi) - theta, who[y == 0], sum)
  both <- intersect(names(v10), names(v01)); I <- length(unique(who))
  s10 <- length(v10) / ((length(v10) - 1) * M) * sum(v10^2)
  s01 <- length(v01) / ((length(v01) - 1) * N) * sum(v01^2)
  s11 <- I / (I - 1) * sum(v10[both] * v01[both])
  s10 / M + s01 / N + 2 * s11 / (M * N)
}
out$clustered_variance <- clustered(y, a, patient)

# operating points: pROC::coords on the rule score >= threshold (pROC cuts between scores; counts are the same)
best <- coords(ra, "best", best.method = "youden", ret = c("tp", "fn", "fp", "tn"), transpose = FALSE)
every <- coords(ra, "all", ret = c("tp", "fn", "fp", "tn", "sensitivity", "specificity"), transpose = FALSE)
sens95 <- every[every$sensitivity >= .95, ]; sens95 <- sens95[which.max(sens95$specificity), ]
spec90 <- every[every$specificity >= .90, ]; spec90 <- spec90[which.max(spec90$sensitivity), ]
out$points <- list(youden = as.list(best[1, ]), sensitivity95 = as.list(sens95[1:4]), specificity90 = as.list(spec90[1:4]))

# two by two: epiR (Wilson and exact), base R
cells <- function(cut) c(tp = sum(a >= cut & y == 1), fp = sum(a >= cut & y == 0),
                         fn = sum(a < cut & y == 1), tn = sum(a < cut & y == 0))
x <- cells(.5)
table22 <- as.table(matrix(x, 2, byrow = TRUE))
tests <- function(method) {
  d <- epi.tests(table22, method = method)$detail
  keep <- d[d$statistic %in% c("se", "sp", "pv.pos", "pv.neg", "diag.ac"), ]
  split(keep[, c("est", "lower", "upper")], as.character(keep$statistic))
}
out$two_by_two <- list(counts = as.list(x), wilson = tests("wilson"), exact = tests("exact"))
shares <- list(c(45, 50), c(44, 50), c(89, 100), c(0, 12), c(12, 12), c(1, 7), c(562, 619), c(1183, 1269), c(1745, 1888))
out$shares <- lapply(shares, function(s) list(
  x = s[1], n = s[2],
  wilson = as.numeric(suppressWarnings(prop.test(s[1], s[2], correct = FALSE))$conf.int),
  exact = as.numeric(binom.test(s[1], s[2])$conf.int)))

# shares of units of the same patients: Wilson with n over the design effect of survey::svymean
of_patients <- function(rows) {
  hits <- data.frame(patient = patient[rows], hit = as.integer(a[rows] >= .5))
  effect <- as.numeric(deff(svymean(~hit, svydesign(ids = ~patient, weights = ~1, data = hits), deff = "replace")))
  k <- length(rows) / max(effect, 1); p <- mean(hits$hit); z <- qnorm(.975)
  middle <- p + z^2 / (2 * k); half <- z * sqrt(p * (1 - p) / k + z^2 / (4 * k^2))
  list(effect = effect, limits = (middle + c(-1, 1) * half) / (1 + z^2 / k))
}
out$by_patient <- list(all = of_patients(1:n), positive = of_patients(which(y == 1)), negative = of_patients(which(y == 0)))

# McNemar
pairs <- list(c(4, 15), c(0, 5), c(12, 12), c(9, 16), c(30, 51), c(10, 14), c(0, 1))
out$mcnemar <- lapply(pairs, function(d) list(
  lost = d[1], gained = d[2], exact = binom.test(d[1], sum(d))$p.value,
  corrected = mcnemar.test(matrix(c(50, d[2], d[1], 50), 2), correct = TRUE)$p.value))

# kappa
kappa_of <- function(u, v) {
  t <- table(factor(u, answers), factor(v, answers))
  k <- cohen.kappa(t); w <- Kappa(t)$Unweighted
  list(psych = as.numeric(k$confid["unweighted kappa", ]), vcd = as.numeric(w), epi = as.numeric(epi.kappa(t)$kappa[c("est")]))
}
out$kappa <- list(r1_r2 = kappa_of(r1, r2), r1_truth = kappa_of(r1, truth), r3_truth = kappa_of(r3, truth))
fleiss <- function(...) {                                    # Fleiss, Psychol Bull 1971;76:378-82
  m <- t(sapply(seq_along(..1), function(i) table(factor(sapply(list(...), `[`, i), answers))))
  k <- sum(m[1, ]); p <- colSums(m) / sum(m)
  po <- mean((rowSums(m^2) - k) / (k * (k - 1)))
  (po - sum(p^2)) / (1 - sum(p^2))
}
out$fleiss <- fleiss(r1, r2, r3)

# reading times
out$wilcoxon <- suppressWarnings(wilcox.test(after, before, paired = TRUE, exact = FALSE, correct = FALSE))$p.value
out$quartiles <- as.numeric(quantile(before, c(.25, .5, .75)))

# calibration: glm and rms::val.prob
lg <- qlogis(a)
line <- glm(y ~ lg, family = binomial)
large <- glm(y ~ offset(lg), family = binomial)
score <- val.prob(a, y, pl = FALSE)
out$calibration <- list(
  intercept = unname(coef(line)[1]), slope = unname(coef(line)[2]), in_the_large = unname(coef(large)[1]),
  brier = unname(score["Brier"]), c = unname(score["C (ROC)"]), val_prob_slope = unname(score["Slope"]),
  log_loss = -mean(y * log(a) + (1 - y) * log(1 - a)),
  temperature = unname(1 / coef(glm(y ~ 0 + lg, family = binomial))))
target <- ifelse(y == 1, (sum(y) + 1) / (sum(y) + 2), 1 / (sum(1 - y) + 2))
out$calibration$platt <- unname(coef(suppressWarnings(glm(target ~ lg, family = binomial,
  control = list(epsilon = 1e-14, maxit = 100)))))
mean_at <- tapply(y, a, mean); weight <- as.numeric(table(a)); at <- as.numeric(names(mean_at))
pava <- function(v, w) {                                     # pool adjacent violators, weights of ties
  blocks <- list()
  for (i in seq_along(v)) {
    blocks[[length(blocks) + 1]] <- c(v[i], w[i], 1)
    while (length(blocks) > 1 && blocks[[length(blocks) - 1]][1] >= blocks[[length(blocks)]][1]) {
      q <- blocks[[length(blocks)]]; p <- blocks[[length(blocks) - 1]]
      blocks[[length(blocks)]] <- NULL
      blocks[[length(blocks)]] <- c((p[1] * p[2] + q[1] * q[2]) / (p[2] + q[2]), p[2] + q[2], p[3] + q[3])
    }
  }
  unlist(lapply(blocks, function(q) rep(q[1], q[3])))
}
out$isotonic <- list(score = at, value = pava(as.numeric(mean_at), weight))
bin <- cut(a, seq(0, 1, length.out = 16), include.lowest = TRUE)   # (low, high], the first with 0
out$ece15 <- sum(abs(tapply(y - a, bin, sum)), na.rm = TRUE) / n
out$mce15 <- max(abs(tapply(y - a, bin, mean)), na.rm = TRUE)

# predictive values at another prevalence: logit limits of Mercaldo, Lau, Zhou, Stat Med 2007;26:2170-83
mercaldo <- function(tp, fn, fp, tn, pi) {
  se <- tp / (tp + fn); sp <- tn / (tn + fp); z <- qnorm(.975)
  ppv <- se * pi / (se * pi + (1 - sp) * (1 - pi)); npv <- sp * (1 - pi) / (sp * (1 - pi) + (1 - se) * pi)
  vp <- (1 - se) / se / (tp + fn) + sp / (1 - sp) / (tn + fp)
  vn <- se / (1 - se) / (tp + fn) + (1 - sp) / sp / (tn + fp)
  list(ppv = c(ppv, plogis(qlogis(ppv) + c(-1, 1) * z * sqrt(vp))),
       npv = c(npv, plogis(qlogis(npv) + c(-1, 1) * z * sqrt(vn))))
}
out$mercaldo <- mercaldo(x["tp"], x["fn"], x["fp"], x["tn"], .1)

# Hanley and McNeil, Radiology 1982;143:29-36
hanley <- function(A, m, n) {
  q1 <- A / (2 - A); q2 <- 2 * A^2 / (1 + A)
  A + c(-1, 1) * qnorm(.975) * sqrt((A * (1 - A) + (m - 1) * (q1 - A^2) + (n - 1) * (q2 - A^2)) / (m * n))
}
out$hanley <- list(list(auc = .954, m = 50, n = 50, limits = hanley(.954, 50, 50)),
                   list(auc = .81, m = 30, n = 120, limits = hanley(.81, 30, 120)))

# sample size of a proportion
out$sample_size <- lapply(list(c(.9, .05), c(.9, .03), c(.5, .01)), function(s) list(
  p = s[1], d = s[2], n = epi.sssimpleestb(N = NA, Py = s[1], epsilon = s[2], error = "absolute",
                                           se = 1, sp = 1, nfractional = TRUE, conf.level = .95)))
write_json(out, file.path(here, "values.json"), digits = 15, auto_unbox = TRUE, pretty = TRUE)
